"""`run.json`: which process runs a machine, written at every start and removed at every clean end.

A process id alone proves nothing: it may have been given to somebody else since. So the process's start time
and the boot of the host go with it.
"""

from __future__ import annotations

import json
import os
import select
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mlvm.files import write_whole
from mlvm.machine.record import Record

NAME = "run.json"
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of a machine: the QEMU process, what it was started with, and what has become of it.

    `started` is the process's start in clock ticks since the host's boot; `command` the digest of its command
    line; `ports` maps host ports to guest ports; `ready` is true once the agent has answered; `fork` is the fork whose
    RAM it maps.
    """

    pid: int
    started: int
    boot_id: str
    qemu_version: str
    accelerator: str
    command: str
    ready: bool = False
    ssh_port: int = 0
    ports: dict[int, int] = field(default_factory=dict)
    fork: str = ""


def save(record: Record, run: Run) -> None:
    """Write `run.json`."""
    write_whole(
        record.folder / NAME, json.dumps({"version": VERSION, **asdict(run)}, indent=1) + "\n", mode=0o600
    )


def load(record: Record) -> Run | None:
    """Return the run that `run.json` tells of, or None. Raises ValueError when it cannot be read."""
    try:
        document = json.loads((record.folder / NAME).read_text())
        if document.pop("version") != VERSION:
            raise ValueError(f"its version is not {VERSION}")
        document["ports"] = {int(host): int(guest) for host, guest in document["ports"].items()}
        run = Run(**document)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as broken:
        raise ValueError(f"`{record.folder / NAME}` cannot be read: {broken}") from None
    if not all(isinstance(number, int) for number in (run.pid, run.started)):
        raise ValueError(f"`{record.folder / NAME}` cannot be read: it names no process")
    return run


def forget(record: Record) -> None:
    """Remove `run.json`."""
    (record.folder / NAME).unlink(missing_ok=True)


def start_time(pid: int, root: Path = Path("/proc")) -> int | None:
    """Return when process `pid` started, or None when it is gone (a zombie is)."""
    try:
        fields = (root / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def alive(run: Run, boot_id: str, root: Path = Path("/proc")) -> bool:
    """Tell whether the very process of `run` still lives."""
    return run.boot_id == boot_id and start_time(run.pid, root) == run.started


def kill(run: Run, boot_id: str, *, number: int, seconds: float) -> bool:
    """Send a signal to the process of `run`, and to no other; return whether it ended within `seconds`."""
    try:
        descriptor = os.pidfd_open(run.pid)
    except ProcessLookupError:
        return True
    try:
        if not alive(run, boot_id):  # asked while we hold the descriptor: it cannot become another's now
            return True
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def wait_end(run: Run, boot_id: str, *, seconds: float) -> bool:
    """Wait until the process of `run` has ended; return whether it did within `seconds`."""
    return kill(run, boot_id, number=0, seconds=seconds)
