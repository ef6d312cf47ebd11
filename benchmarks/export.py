"""How long it takes to pack an image as a box, and how large the box is.

The baseline for the time is what people type: the same disk converted by qemu-img with the same compressor, and tar.
For the size it is what the layers come to under zstd, which is what a registry would move.
"""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import Bench, environment
from benchmarks.measures import Bar, Measure, Series
from mlvm import process
from mlvm.box.parts import MakingBox
from mlvm.errors import LockError
from mlvm.events import SILENT
from mlvm.image.store import Store
from mlvm.paths import shipped
from mlvm.project import Project

BIN = Path(sys.executable).parent
BOX = "sklearn"
LIMITS = {"libvirt": 30.0, "virtualbox": 60.0}
LARGEST = 1.15
#: How qemu-img makes a disk that is compressed as ours is.
CONVERT = {
    "libvirt": ("-O", "qcow2", "-c"),
    "virtualbox": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
}


def measure(bench: Bench) -> Sequence[Measure]:
    """Export the box in turn with qemu-img; all that a box has beside the image is made before."""
    project = Project(folder=shipped("boxes") / BOX, home=bench.home)
    image, lock = project.build(frozen=True), project.lock()
    if lock is None:
        raise LockError(f"`{BOX}` has no lock", hint="mlvm lock")
    parts = MakingBox(lock, image, Store(bench.home), SILENT).run()
    disk = _raw_disk(bench)
    turns = bench.rounds(
        {
            **{provider: lambda provider=provider: _export(bench, provider) for provider in LIMITS},
            **{
                f"qemu-img {provider}": lambda provider=provider: _convert(bench, disk, provider)
                for provider in LIMITS
            },
        }
    )
    packed = sum(_zstd(layer.path, bench.folder) for layer in parts.layers)
    measures = []
    for provider, limit in LIMITS.items():
        ours, theirs = turns[provider], turns[f"qemu-img {provider}"]
        measures.append(
            Measure(
                name=f"box for {provider}",
                unit="s",
                ours=Series(name="mlvm", samples=tuple(seconds for seconds, _ in ours)),
                baseline=Series(name="qemu-img, tar", samples=tuple(seconds for seconds, _ in theirs)),
                bar=Bar(of="ours", limit=limit),
            )
        )
        measures.append(
            Measure(
                name=f"size of the box for {provider}",
                unit="MB",
                ours=Series(name="mlvm", samples=tuple(size / 1e6 for _, size in ours)),
                baseline=Series(name="layers, zstd", samples=(packed / 1e6,)),
                bar=Bar(of="ratio", limit=LARGEST),
            )
        )
    return measures


def _export(bench: Bench, provider: str) -> tuple[float, int]:
    target = bench.folder / "ours.box"
    began = time.monotonic()
    done = process.run(
        [BIN / "mlvm", "box", "export", BOX, "--provider", provider, "--output", target, "--json"],
        env=environment(),
        timeout=1800,
    )
    seconds = time.monotonic() - began
    target.unlink()
    return seconds, int(json.loads(done.stdout)["size"])


def _convert(bench: Bench, disk: Path, provider: str) -> tuple[float, int]:
    target = bench.folder / "theirs"
    began = time.monotonic()
    process.run(["qemu-img", "convert", *CONVERT[provider], disk, target], timeout=1800)
    with tarfile.open(bench.folder / "theirs.box", "w") as tar:
        tar.add(target, "disk")
    seconds = time.monotonic() - began
    size = (bench.folder / "theirs.box").stat().st_size
    for path in (target, bench.folder / "theirs.box"):
        path.unlink()
    return seconds, size


def _raw_disk(bench: Bench) -> Path:
    """Return the disk of the box as a sparse file, for qemu-img to begin with."""
    box, folder = bench.folder / "first.box", bench.folder / "first"
    process.run([BIN / "mlvm", "box", "export", BOX, "--provider", "libvirt", "--output", box], timeout=1800)
    with tarfile.open(box) as tar:
        tar.extractall(folder, filter="data")
    disk = bench.folder / "disk.raw"
    process.run(["qemu-img", "convert", "-O", "raw", folder / "root.qcow2", disk], timeout=1800)
    shutil.rmtree(folder)
    box.unlink()
    return disk


def _zstd(path: Path, folder: Path) -> int:
    target = folder / "layer.zst"
    process.run(["zstd", "-q", "-f", path, "-o", target], timeout=1800)
    return target.stat().st_size
