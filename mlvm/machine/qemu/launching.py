"""From a command line to a QEMU process whose guest answers, or an error that says where it hung."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mlvm import process
from mlvm.errors import MachineError
from mlvm.events import Observer
from mlvm.machine.channel import AgentGuest
from mlvm.machine.qemu import argv, qmp, ready, run_record, state
from mlvm.machine.qemu.argv import Launch
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import Record
from mlvm.paths import make_private

#: Seconds QEMU has to open its monitor.
MONITOR = 15.0


class NoStartError(MachineError):
    """QEMU ended before its monitor was there, or did not get that far."""


def monitor_socket(record: Record) -> Path:
    """Where a machine's QEMU is asked and told."""
    return record.home.sockets(record.name) / argv.MONITOR


def guest_of(record: Record) -> AgentGuest:
    """Return the door to a machine's guest, whether or not anybody answers there."""
    return AgentGuest(record.home.sockets(record.name), env=dict(record.env))


def digest(launch: Launch) -> str:
    """Return what tells command lines apart, however their RAM comes to be."""
    command = argv.command_line(replace(launch, incoming=False, ram=None))
    return hashlib.sha256("\0".join(command).encode()).hexdigest()


def spawn(launch: Launch) -> Run:
    """Start the process, leave a note of it, and wait for its monitor. Raises MachineError."""
    record = launch.record
    make_private(record.home.runtime)
    make_private(record.home.sockets(record.name))
    log = record.folder / state.QEMU_LOG
    for old in (log, record.console_log):
        old.unlink(missing_ok=True)
    child = process.start_detached(argv.command_line(launch), log_file=log)
    started = run_record.start_time(child.pid)
    # Reaps it if it ends before we do; nothing waits for this thread.
    threading.Thread(target=child.wait, name=f"qemu {child.pid}", daemon=True).start()
    run = Run(
        pid=child.pid,
        started=started or 0,
        boot_id=launch.host.boot_id,
        qemu_version=launch.host.qemu_version,
        accelerator=launch.accelerator.value,
        command=digest(launch),
        # A fork starts once with RAM that is a file, and it is its fork's.
        fork=record.forks[0] if record.forks and launch.ram is not None else "",
    )
    run_record.save(record, run)
    deadline = time.monotonic() + MONITOR
    while not _monitor_answers(record):
        gone = not run_record.alive(run, run.boot_id)
        if gone or time.monotonic() > deadline:
            raise NoStartError(
                f"QEMU {'ended at once' if gone else 'does not open its monitor'}",
                details=state.tail(log).strip() or "it said nothing",
                hint="`mlvm doctor` checks what machines need of this host",
            )
        time.sleep(0.01)
    return run


def wait_ready(
    record: Record, run: Run, observer: Observer, *, limits: Mapping[str, float], first: str
) -> None:
    """Wait for the agent's greeting, from stage `first` on. Raises StageTimeout or MachineError."""

    def ended() -> str | None:
        if run_record.alive(run, run.boot_id):
            return None
        return state.tail(record.folder / state.QEMU_LOG)

    watched = ready.Watched(name=record.name, console=ready.Console(record.console_log), ended=ended)
    with guest_of(record).channel.connect() as session:
        ready.wait_ready(watched, session, observer=observer, limits=limits, first=first)


def _monitor_answers(record: Record) -> bool:
    """Tell whether QEMU has come as far as answering: it listens before it has looked at all its options."""
    path = monitor_socket(record)
    try:
        if not state.answers(path):
            return False
        with qmp.connect(path) as monitor:
            monitor.execute("query-status")
    except MachineError:
        return False
    return True
