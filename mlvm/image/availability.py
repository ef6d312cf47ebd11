"""What is here of a lock: its image, a warm state of it, its downloads, or nothing yet.

Looks and makes nothing, and asks nobody: a list of boxes is shown before anybody has decided on one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum

from mlvm.download import Wanted
from mlvm.image.plan import plan
from mlvm.image.store import Store
from mlvm.lock.document import Lock
from mlvm.lock.interpreters import wanted_interpreter
from mlvm.lock.mirrors import wanted_debs, wanted_for_build, wanted_wheels
from mlvm.paths import Home


class Status(StrEnum):
    """How far it is to a running machine, nearest first."""

    WARM = "warm"
    BUILT = "built"
    DOWNLOADS_ONLY = "downloads only"
    NOT_YET = "not yet"


@dataclass(frozen=True, kw_only=True, slots=True)
class Availability:
    """What is here of a lock; sizes in bytes, `image` that of the built image, None when there is none.

    `downloads` is what all its files come to as far as the lock knows their sizes, `here` what of that is here.
    """

    status: Status
    image: int | None
    downloads: int
    here: int


def look(lock: Lock, *, home: Home) -> Availability:
    """Return what is here of a lock."""
    store = Store(home)
    image_id = plan(lock).image_id
    image = store.find_image(image_id)
    debs, own = wanted_debs(lock, lock.debs()), wanted_interpreter(lock.interpreter)
    every = (*debs, *own, *wanted_wheels(lock), *_sources(lock, store))
    wanted = {one.sha256: one for one in every}
    there = {sha256 for sha256 in wanted if store.blobs.has(sha256)}
    if image is not None:
        status = Status.WARM if image_id in _warm(store) else Status.BUILT
    else:
        status = Status.DOWNLOADS_ONLY if there == wanted.keys() else Status.NOT_YET
    parts = (*image.layers, image.vmlinuz, image.initramfs) if image else ()
    return Availability(
        status=status,
        image=sum(part.size for part in parts) if image else None,
        downloads=sum(one.size or 0 for one in wanted.values()),
        here=sum(wanted[sha256].size or 0 for sha256 in there),
    )


def _sources(lock: Lock, store: Store) -> list[Wanted]:
    """Return what is needed to build the wheels that are not here."""
    packages = {str(package.name): package for package in lock.python.packages}
    return [
        wanted
        for build in lock.builds
        for package in (packages[build.name],)
        if not store.blobs.has((package.wheels or ())[0].hashes["sha256"])
        for wanted in wanted_for_build(package, build)
    ]


def _warm(store: Store) -> set[str]:
    """Return the ids of the images of which there is a warm state."""
    found = set()
    for path in store.warm.glob("*/warm.json"):
        try:
            found.add(str(json.loads(path.read_text())["image_id"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found
