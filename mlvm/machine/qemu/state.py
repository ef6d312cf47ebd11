"""What a machine is doing, found by looking.

Looking never fails and changes nothing: what cannot be read becomes a reason. A machine whose process is gone
without a clean end is stopped, with the likeliest reason first.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path

from mlvm.machine.provider import Condition, State
from mlvm.machine.qemu import run_record, saved
from mlvm.machine.qemu.argv import FRESH, MONITOR, OVERLAY, fork_disks
from mlvm.machine.record import Record

PANIC = re.compile(r"Kernel panic - not syncing: ([^\r\n]*)")
#: The last words of a guest that has shut itself down, or restarted (which ends QEMU too).
ORDERLY = re.compile(r"reboot: (Power down|Restarting system|System halted)")

QEMU_LOG = "qemu.log"


def look(record: Record, boot_id: str) -> Condition:
    """Return the machine's state and, where it is not plain, the reasons."""
    try:
        if not (record.folder / "machine.json").exists():
            return Condition(state=State.ABSENT)
        return _look(record, boot_id)
    except OSError as failed:
        return Condition(state=State.BROKEN, reasons=(str(failed),))


def _look(record: Record, boot_id: str) -> Condition:
    try:
        run = run_record.load(record)
    except ValueError as unreadable:
        if answers(record.home.sockets(record.name) / MONITOR):
            return Condition(state=State.BROKEN, reasons=(str(unreadable), "yet its QEMU runs"))
        return _without_process(record, (str(unreadable),))
    if run is None:
        return _without_process(record, ())
    if not run_record.alive(run, boot_id):
        return _without_process(record, why_ended(record, run, boot_id))
    if not run.ready:
        return Condition(state=State.STARTING, reasons=("its agent has not answered yet",))
    return Condition(state=State.RUNNING)


def _without_process(record: Record, reasons: tuple[str, ...]) -> Condition:
    """Return the state of a machine without a process: its disk must be there, its RAM may be saved."""
    if not any((record.folder / name).exists() for name in (OVERLAY, FRESH)):
        return Condition(
            state=State.BROKEN, reasons=(f"its disk `{record.folder / OVERLAY}` is gone", *reasons)
        )
    for disk in fork_disks(record):
        if not disk.exists():
            return Condition(
                state=State.BROKEN, reasons=(f"the disk it was forked from, `{disk}`, is gone", *reasons)
            )
    if saved.exists(record.folder):
        return Condition(state=State.SUSPENDED, reasons=reasons)
    return Condition(state=State.STOPPED, reasons=reasons)


def why_ended(record: Record, run: run_record.Run, boot_id: str) -> tuple[str, ...]:
    """Return the reasons a process is gone that nobody here has ended."""
    if run.boot_id != boot_id:
        return ("the host has been restarted while it ran",)
    console = tail(record.console_log)
    if panic := PANIC.search(console):
        return (f"its guest kernel panicked: {panic[1].strip()}",)
    if ORDERLY.search(console):
        return ()
    said = tail(record.folder / QEMU_LOG).strip().splitlines()[-3:]
    return (f"its QEMU process {run.pid} ended unexpectedly", *said)


def tail(path: Path, size: int = 8192) -> str:
    """Return the end of a text file, or nothing."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - size))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


def answers(path: Path) -> bool:
    """Tell whether somebody listens at a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
