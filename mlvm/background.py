"""Work that nobody waits for: a process of its own, at the lowest priority, that says what it does in a log."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlvm import process
from mlvm.events import Observer
from mlvm.paths import Home

if TYPE_CHECKING:
    from mlvm.machine.record import Record

#: Bytes that stay free beside a machine that runs in the background.
RESERVE = 1 << 30


def make_warm(project: Path, record: Record, *, observer: Observer) -> None:
    """Make the warm state of a project's machines in the background, where there is memory for one more machine."""
    free = available_memory()
    if free < record.shape.memory + RESERVE:
        observer.note(
            f"no warm state is made: {free >> 20} MiB of memory are free, too few for one more machine"
        )
        return
    log = log_of(record.home)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "mlvm.cli",
        "build",
        "--warm",
        "--frozen",
        "--progress",
        "plain",
        str(project),
    ]
    process.start_detached(["nice", "-n", "19", *command], log_file=log)
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
