"""Boxes of a few kilobytes that are whole for Vagrant, and keys to sign them with."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import subprocess
import tarfile
from pathlib import Path


def qcow2(size: int = 1 << 20) -> bytes:
    """Return an empty qcow2 disk: a header, an empty first table, counts for these three clusters."""
    cluster = 1 << 16
    head = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, size, 0, 1, cluster, 2 * cluster, 1, 0, 0)
    counts = struct.pack(">Q", 3 * cluster).ljust(cluster, b"\0")
    return (
        head.ljust(cluster, b"\0")
        + bytes(cluster)
        + counts
        + struct.pack(">4H", 1, 1, 1, 1).ljust(cluster, b"\0")
    )


def make_box(path: Path, *, seed: int = 0, more: int = 0, provider: str = "libvirt") -> str:
    """Write a box, another for each `seed`, larger by `more` bytes of noise; return its digest."""
    disks = [{"path": "root.qcow2", "name": "root"}]
    members = {
        "metadata.json": json.dumps({"provider": provider, "format": "qcow2", "disks": disks}).encode(),
        "Vagrantfile": f"# {seed}\n".encode(),
        "root.qcow2": qcow2(),
    }
    if more:
        members["noise"] = random.Random(seed).randbytes(more)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_key(path: Path) -> Path:
    """Make an SSH key without a passphrase; return its private half."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path


def signers(path: Path, *lines: tuple[str, Path], options: str = "") -> Path:
    """Write a file that lists who may sign."""
    path.write_text(
        "".join(f"{who} {options}{key.with_name(key.name + '.pub').read_text()}" for who, key in lines)
    )
    return path
