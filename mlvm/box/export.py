"""Pack an image as a Vagrant box: the same lock gives the same file, whoever packs it, wherever.

The disk is composed of parts that the store has (`parts`, `disk`), wrapped for the hypervisor (`providers`), and
compressed by the lock's own zlib (`deflate`).
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlvm import files
from mlvm.box.archive import make_tar
from mlvm.box.deflate import Deflater
from mlvm.box.disk import make_disk
from mlvm.box.parts import MakingBox
from mlvm.box.providers import Packing, box_kind
from mlvm.box.recipe import Scratch
from mlvm.errors import StoreError
from mlvm.events import SILENT, Observer, stage
from mlvm.image.document import Image
from mlvm.image.store import Store
from mlvm.lock.document import Lock
from mlvm.paths import Home


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """A box that was written."""

    path: Path
    provider: str
    sha256: str
    size: int


def export(
    lock: Lock,
    image: Image,
    *,
    home: Home,
    provider: str,
    output: Path,
    observer: Observer = SILENT,
    workers: int | None = None,
) -> Exported:
    """Write the box of `lock`, whose image is `image`, for one provider to `output`, whole or not at all.

    `workers` is how many CPUs compress; the outcome does not depend on it. Raises BuildError for a provider that no box
    is made for, LockError for a lock that knows no boxes, StoreError for a full disk.
    """
    kind = box_kind(provider)
    store = Store(home)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with store.building(waiting=lambda: observer.note("waiting: the store is being pruned")):
            with stage(observer, "build", f"{lock.name}: what a box has beside the image"):
                parts = MakingBox(lock, image, store, observer).run()
            with (
                stage(observer, "pack", f"{lock.name} for {provider}") as outcome,
                tempfile.TemporaryDirectory(dir=output.parent, prefix=files.TEMPORARY) as folder,
            ):
                scratch = Scratch(Path(folder) / "scratch")
                deflater = Deflater(
                    python=parts.python,
                    home=parts.python_home,
                    scratch=Path(folder),
                    workers=workers or _cpus(),
                )
                disk = make_disk(parts.boot, parts.layers, tools=parts.tools, scratch=scratch)
                members = kind.members(Packing(name=lock.name, disk=disk, deflater=deflater))
                tar = make_tar(members, scratch=scratch)
                whole = Path(folder) / "box"
                if kind.compressed:
                    tar.write(whole)
                else:
                    deflater.gzip(tar, whole)
                found = Exported(
                    path=output, provider=provider, sha256=files.sha256_of(whole), size=whole.stat().st_size
                )
                whole.replace(output)
                outcome.append(f"{output.name}, {found.size >> 20} MiB")
    except OSError as failure:
        raise _explained(failure, output) from failure
    return found


def _cpus() -> int:
    return max(1, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _explained(failure: OSError, output: Path) -> StoreError:
    if failure.errno in {errno.ENOSPC, errno.EDQUOT}:
        free = shutil.disk_usage(output.parent).free >> 20
        return StoreError(
            "the disk is full", details=f"{output.parent} has {free} MiB left",
            hint="`mlvm prune` makes room in the store; `--output` writes the box elsewhere",
        )  # fmt: skip
    return StoreError(f"the box cannot be written: {failure}", hint="choose another place with `--output`")
