"""Prove an image: build it anew from the downloads, in a store of its own, and compare part by part.

Three things can be wrong, and each is told apart: a download that has changed on this disk, a stored part that is not
what was built, and a build that gives other bytes than before. Where layers differ, the files are named.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlvm import files
from mlvm.errors import BuildError
from mlvm.events import SILENT, Observer
from mlvm.image.build import build
from mlvm.image.document import LAYERS, Artifact, Image
from mlvm.image.erofs_reader import differences
from mlvm.image.plan import plan
from mlvm.image.sources import checked_blob
from mlvm.image.store import Store
from mlvm.lock.document import Lock
from mlvm.lock.interpreters import wanted_interpreter
from mlvm.paths import Home

#: Differing files named for each layer.
SHOWN = 20


def verify(lock: Lock, *, home: Home, observer: Observer = SILENT, workers: int | None = None) -> list[str]:
    """Return what differs between the stored image and one built anew, a line each; empty when nothing does.

    Raises BuildError when there is no image, DigestError when a download has changed.
    """
    store = Store(home)
    with store.building():
        image = store.find_image(plan(lock).image_id)
        if image is None:
            raise BuildError("there is no image to verify", hint="mlvm build")
        _check_downloads(lock, store)
        with tempfile.TemporaryDirectory(prefix=f"{files.TEMPORARY}verify-", dir=store.folder) as name:
            root = Path(name)
            other = Home(data=root / "data", cache=root / "cache", runtime=root / "runtime")
            other.store.mkdir(parents=True)
            (other.store / "blobs").symlink_to(store.blobs.folder.resolve())
            anew = build(lock, home=other, observer=observer, workers=workers)
            return compare(image, anew)


def compare(image: Image, anew: Image) -> list[str]:
    """Return how the bytes of a stored image differ from those of one built anew."""
    lines = []
    for stored, built in zip(_parts(image), _parts(anew), strict=True):
        found = files.sha256_of(stored.path)
        if found == built.sha256:
            continue
        if found != stored.sha256:
            lines.append(f"{stored.name}: changed since it was built, {stored.sha256} then, {found} now")
        else:
            lines.append(f"{stored.name}: {found} in the store, {built.sha256} built anew")
        if stored.name in LAYERS:
            lines += [f"{stored.name}: {line}" for line in _named(stored, built)]
    return lines


def _named(stored: Artifact, built: Artifact) -> list[str]:
    """Return the files in which two layers differ, not too many."""
    try:
        found = differences(stored.path, built.path)
    except BuildError as broken:
        return [broken.message]
    if not found:
        return ["the same files, laid out differently"]
    more = [f"... and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return found[:SHOWN] + more


def _parts(image: Image) -> tuple[Artifact, ...]:
    return (*image.layers, image.vmlinuz, image.initramfs)


def _check_downloads(lock: Lock, store: Store) -> None:
    """Take the digest of every download that the image is made of."""
    for package in lock.debs():
        checked_blob(package.name, package.sha256, store.blobs)
    for own in wanted_interpreter(lock.interpreter):
        checked_blob(own.name, own.sha256, store.blobs)
    for one in lock.python.packages:
        for wheel in one.wheels or ():
            checked_blob(str(one.name), wheel.hashes["sha256"], store.blobs)
