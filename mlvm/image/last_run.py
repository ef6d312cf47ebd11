"""When a shipped box was last proved, how big it was and how long it took: `last-run.json` beside its lock.

`tools/boxes.py` writes it after building the box from its lock, booting it and running its `verify.ipynb` inside. The
lock's digests say what the bits must be; this says that somebody saw them work, and when. It speaks of one lock: when
the digests differ, it is of an older one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlvm.errors import LockError
from mlvm.files import write_whole
from mlvm.lock.document import Lock

NAME = "last-run.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LastRun:
    """One run of a shipped box. Sizes are in bytes, times in seconds.

    `date` is YYYY-MM-DD in UTC. `digests` and `sizes` go by the name of the part; `downloads` is what the lock's files
    come to. `seconds` has, as far as they were taken, "build" (downloads there, nothing built), "boot" (cold, from the
    built image to the answer to a kernel's first cell) and "verify" (the notebook). `host` says on what: cpu, cores,
    accelerator, qemu, load.
    """

    date: str
    builder: int
    digests: Mapping[str, str]
    sizes: Mapping[str, int]
    downloads: int
    seconds: Mapping[str, float]
    host: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of the whole image."""
        return sum(self.sizes.values())

    def speaks_of(self, lock: Lock) -> bool:
        """Return whether it was a run of this lock, as far as the lock's recorded digests tell."""
        return lock.image is not None and dict(lock.image.digests) == dict(self.digests)


def load(folder: Path) -> LastRun | None:
    """Return the last run of the box in `folder`; None when none is recorded. Raises LockError."""
    path = folder / NAME
    try:
        data = json.loads(path.read_text())
        if data.pop("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        return LastRun(**data)
    except FileNotFoundError:
        return None
    except (AttributeError, KeyError, TypeError, ValueError) as broken:
        raise LockError(
            f"`{path}` is not the record of a run: {broken}",
            hint=f"python tools/boxes.py run {folder.name}",
        ) from broken


def save(run: LastRun, folder: Path) -> None:
    """Write it beside the box's lock."""
    write_whole(folder / NAME, json.dumps({"schema": SCHEMA, **asdict(run)}, indent=1) + "\n")
