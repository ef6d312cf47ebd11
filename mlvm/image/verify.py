"""Prove an image: rebuild it from nothing in a store of its own and compare, part by part.

Only the downloads are shared with the real store, and each of them is checked against the lock again. Where a layer
differs, both are unpacked with the pinned tools and the files that differ are named.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlvm.errors import BuildError, DigestError
from mlvm.events import SILENT, Observer, stage
from mlvm.files import sha256_of
from mlvm.image.build import build
from mlvm.image.document import Artifact, Image
from mlvm.image.plan import plan
from mlvm.image.store import Store
from mlvm.image.tools import run_tool
from mlvm.lock.document import Lock
from mlvm.paths import Home

SHOWN = 20


def verify(lock: Lock, *, home: Home, observer: Observer = SILENT) -> list[str]:
    """Return what differs between the stored image and one built anew, a line each; empty when they are the same.

    Raises DigestError when a download in the store was changed, BuildError when the image is not built.
    """
    store = Store(home)
    with store.using(), stage(observer, "build", "anew, to compare") as outcome:
        ours = store.find_image(plan(lock).image_id)
        if ours is None:
            raise BuildError("there is no image to verify", hint="mlvm build")
        _check_blobs(lock, store)
        store.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tmp-verify-", dir=store.folder) as name:
            root = Path(name)
            other = Home(data=root / "data", cache=root / "cache", runtime=root / "runtime")
            other.store.mkdir(parents=True)
            (other.store / "blobs").symlink_to(store.blobs.folder)
            theirs = build(lock, home=other)
            differences = _compare(ours, theirs)
        outcome.append("the same" if not differences else "not the same")
    return differences


def _check_blobs(lock: Lock, store: Store) -> None:
    wheels = [wheel.hashes["sha256"] for package in lock.python.packages for wheel in package.wheels or ()]
    for digest in [*(package.sha256 for package in lock.debs()), *wheels]:
        path = store.blobs.path(digest)
        if path.exists() and sha256_of(path) != digest:
            path.unlink()
            raise DigestError(
                "a download in the store was changed after it was checked",
                details=str(path),
                hint="it was thrown away; mlvm build fetches it again",
            )


def _compare(ours: Image, theirs: Image) -> list[str]:
    lines = []
    for mine, other in zip(_parts(ours), _parts(theirs), strict=True):
        found = sha256_of(mine.path)
        if found == other.sha256:
            continue
        lines.append(f"{mine.name}: sha256:{found} in the store, sha256:{other.sha256} built anew")
        if mine in ours.layers:
            lines += [f"{mine.name}: {line}" for line in _differing_files(mine, other, theirs.tools)]
    return lines


def _parts(image: Image) -> tuple[Artifact, ...]:
    return (*image.layers, image.vmlinuz, image.initramfs)


def _differing_files(mine: Artifact, other: Artifact, tools: Path) -> list[str]:
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=other.path.parent) as name:
        trees = []
        for label, artifact in (("mine", mine), ("other", other)):
            folder = Path(name) / label
            try:
                run_tool(tools, "usr/bin/fsck.erofs", [f"--extract={folder}", "--overwrite", artifact.path])
            except Exception as broken:  # noqa: BLE001  (a damaged file system is one of the answers)
                return [f"cannot be unpacked: {broken}"]
            trees.append(_contents(folder))
    first, second = trees
    differing = sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path))
    more = [f"... and {len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
    return differing[:SHOWN] + more


def _contents(folder: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        kind = str(path.readlink()) if path.is_symlink() else sha256_of(path) if path.is_file() else ""
        found["/" + str(path.relative_to(folder))] = (mode, kind)
    return found
