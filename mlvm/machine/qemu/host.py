"""What the host offers, looked at once and frozen, so that everything decided from it is a pure function."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mlvm import process
from mlvm.errors import ProgramError
from mlvm.files import write_whole

QEMU = "qemu-system-x86_64"
#: Debian 12 has 7.2 and Ubuntu 22.04 6.2; older ones lack options we use.
OLDEST = (6, 2)


class Accelerator(StrEnum):
    """What runs the guest's instructions (QEMU's words)."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True, slots=True)
class HostProbe:
    """The host as far as machines depend on it; `memory` in bytes, `boot_id` changes with every boot."""

    qemu: str
    qemu_version: str
    page_size: int
    cpus: int
    memory: int
    boot_id: str


def probe_host(cache: Path | None = None) -> HostProbe:
    """Look at this host; what QEMU said of itself is remembered in folder `cache`.

    Raises ProgramError when QEMU is missing or too old.
    """
    qemu = process.require_program(QEMU)
    version = _version_of(qemu, cache)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ProgramError(
            f"QEMU {version} is too old: at least {OLDEST[0]}.{OLDEST[1]} is needed",
            hint="install QEMU from a newer release of your distribution",
        )
    return HostProbe(
        qemu=qemu,
        qemu_version=version,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        boot_id=boot_id(),
    )


def _version_of(qemu: str, cache: Path | None) -> str:
    """Return what a QEMU says of itself; it is asked once, until it is another file."""
    status = Path(qemu).resolve().stat()
    key = [qemu, status.st_size, status.st_mtime_ns]
    remembered = cache / "qemu.json" if cache else None
    if remembered is not None:
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(remembered.read_text())
            if known["key"] == key:
                return str(known["version"])
    version = parse_version(process.run([qemu, "--version"], timeout=20).stdout.decode(errors="replace"))
    if remembered is not None:
        write_whole(remembered, json.dumps({"key": key, "version": version}) + "\n", mode=0o600)
    return version


def parse_version(text: str) -> str:
    """Return the version in the output of `qemu-system-x86_64 --version`. Raises ProgramError."""
    found = re.search(r"version (\d+\.\d+\.\d+)", text)
    if not found:
        raise ProgramError("QEMU does not say its version", details=text[:400])
    return found[1]


def boot_id(root: Path = Path("/proc")) -> str:
    """Return the id of the host's present boot; process ids mean nothing in another one."""
    try:
        return (root / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
