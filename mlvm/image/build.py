"""Build an image: fetch what is missing, then make, offline, each part that the store does not have.

Parts do not depend on each other (only on the tools), so they are made side by side. Each is made under a hold of its
own and appears whole: two builds at once share the work, and a killed one leaves nothing that is taken for made.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

from mlvm import files
from mlvm.errors import BuildError, StoreError
from mlvm.events import SILENT, Observer
from mlvm.image.document import BUILDER, Image
from mlvm.image.plan import plan
from mlvm.image.store import Store
from mlvm.lock.document import Lock
from mlvm.paths import Home

#: Parts that come with mlvm and not from the lock: another mlvm makes others of the same lock.
NOT_RECORDED = frozenset({"agent"})


def build(lock: Lock, *, home: Home, observer: Observer = SILENT, workers: int | None = None) -> Image:
    """Return the image of `lock`, building what is not in the store.

    `workers` is how many parts are made at once (by default, one a CPU); the outcome does not depend on it. Raises
    DownloadError, DigestError, BuildError (also when the lock records other digests for this builder), StoreError.
    """
    wanted = plan(lock)
    store = Store(home)
    try:
        with store.building(waiting=lambda: observer.note("waiting: the store is being pruned")):
            store.keep(wanted.image_id)
            image = store.find_image(wanted.image_id)
            if image is None:
                from mlvm.image.making import Making  # noqa: PLC0415  (most often there is nothing to make)

                image = Making(lock, wanted, store, observer, workers or _cpus()).run()
    except OSError as failure:
        raise _store_error(failure, store) from failure
    check_record(lock, image)
    return replace(image, name=lock.name)


def check_record(lock: Lock, image: Image) -> None:
    """Raise BuildError when the lock holds other digests for what this builder makes."""
    if lock.image is None or lock.image.builder != BUILDER:
        return
    found = image.digests()
    wrong = [
        name
        for name, digest in sorted(lock.image.digests.items())
        if name not in NOT_RECORDED and found.get(name) != digest
    ]
    if wrong:
        raise BuildError(
            f"{' and '.join(f'`{name}`' for name in wrong)} of the image is not what the lock records",
            details="\n".join(
                f"{name}: built {found.get(name, 'nothing')}, recorded {lock.image.digests[name]}"
                for name in wrong
            ),
            hint="`mlvm verify` builds it once more and compares; `mlvm verify --record` writes new digests",
        )


def recorded_digests(image: Image) -> dict[str, str]:
    """Return the digests that belong into a lock: of every part that the lock alone decides."""
    return {name: digest for name, digest in image.digests().items() if name not in NOT_RECORDED}


def _cpus() -> int:
    return max(1, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _store_error(failure: OSError, store: Store) -> StoreError:
    """Return what an OSError while building means to a person."""
    if failure.errno in {errno.ENOSPC, errno.EDQUOT}:
        used = files.disk_used(store.folder)
        return StoreError(
            "the disk is full",
            details=f"{store.folder} takes {used >> 20} MiB",
            hint="`mlvm prune` removes what no project or machine uses",
        )
    if isinstance(failure, PermissionError) or failure.errno == errno.EROFS:
        return StoreError(
            f"the store cannot be written: {failure}",
            hint=f"make `{store.folder}` yours, or set MLVM_HOME to a folder that is",
        )
    return StoreError(f"the store cannot be used: {failure}")
