"""Work that nobody waits for: a process of its own that keeps out of the way, and says what it does in a log."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlvm import process
from mlvm.events import Observer
from mlvm.machine.provider import standby_allowed
from mlvm.paths import Home

if TYPE_CHECKING:
    from mlvm.machine.record import Record

#: Minutes after which nobody is expected to need a machine on standby any more.
EXPIRES = 60
#: Steps of a shell: $1 is our Python, $2 the project, $3 the load at which a host counts as busy, $4 and $5 are EXPIRES
#: in minutes and in seconds.
WARM = 'nice -n 19 "$1" -m mlvm.cli build --warm --frozen --progress plain "$2"'
STANDBY = (
    'while read -r load _ < /proc/loadavg && [ "${load%.*}" -ge "$3" ]; do sleep 10; done; '
    '"$1" -m mlvm.cli standby --progress plain "$2"'
)
EXPIRY = 'sleep "$5" && exec "$1" -m mlvm.cli standby --end --older-than "$4"'
#: Bytes that stay free beside a machine that runs in the background.
RESERVE = 1 << 30


def make_warm(project: Path, record: Record, *, observer: Observer) -> None:
    """Have the next fresh machine of a project start as soon as it can, where there is memory for one more machine.

    First its warm state, at the lowest priority. Then, once the host has nothing else to do, a machine on standby, to
    be ended after a while; it cannot have a low priority, since it will be the user's own machine.
    """
    free = available_memory()
    if free < record.shape.memory + RESERVE:
        observer.note(
            f"no warm state is made: {free >> 20} MiB of memory are free, too few for one more machine"
        )
        return
    log = log_of(record.home)
    log.parent.mkdir(parents=True, exist_ok=True)
    steps = [WARM, STANDBY, EXPIRY] if standby_allowed() else [WARM]
    busy = max(1, (os.cpu_count() or 1) // 2)
    words = [sys.executable, str(project), str(busy), str(EXPIRES), str(60 * EXPIRES)]
    process.start_detached(["sh", "-c", " && ".join(steps), "mlvm-background", *words], log_file=log)
    observer.note("a warm state is being made in the background: the next fresh machine starts warm")


def log_of(home: Home) -> Path:
    """Where the background work of a home says what it does."""
    return home.data / "background.log"


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes the host could give to a new program; plenty where nobody can tell."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return 1 << 60
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else 1 << 60
