"""Take a fork of a running machine: its RAM and devices into files that others can start from, its disk frozen.

RAM that is already a file cannot be had: a machine's is anonymous, or a private map of a warm state's. So a second QEMU
with the same devices, whose RAM is a new shared file, receives the machine's migration and never runs; then it writes
its devices, leaving the RAM where it is. The machine runs on meanwhile, and stands still only for what it has changed
since the rest was sent, and for the copy of its disk.

What other ways cost was measured: see docs/warm.md.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from mlvm import files
from mlvm.errors import MachineError
from mlvm.machine.qemu import argv, forks, launching, qmp, saved
from mlvm.machine.qemu.argv import Launch, RamFile
from mlvm.machine.qemu.forks import DEVICES, RAM, Fork
from mlvm.machine.qemu.qmp import Monitor
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.qemu.sieve import Sieve

#: Seconds for which a running guest may change its RAM as fast as it is sent; then it is stopped until the end.
PATIENCE = 15.0
#: Bytes in the pipe between the two.
PIPE = 1 << 20


def check_same(launch: Launch, run: Run) -> None:
    """Raise MachineError unless a machine that runs is what its record now says: others are started like that."""
    now = (launch.host.qemu_version, launch.accelerator.value, launching.digest(launch))
    if (run.qemu_version, run.accelerator, run.command) != now:
        name = launch.record.name
        raise MachineError(
            f"machine `{name}` was started by another QEMU or with another shape than it would be now",
            hint=f"mlvm stop {name}, then mlvm up --name {name}",
        )


def take(launch: Launch, fork: Fork) -> Fork:
    """Fill a fork's folder from a running machine, which goes on whether or not that succeeds."""
    record = launch.record
    overlay = record.folder / argv.OVERLAY
    what = f"cannot fork machine `{record.name}`"
    _write_back(overlay)
    with _receiver(launch, fork) as receiver, qmp.connect(launching.monitor_socket(record)) as monitor:
        try:
            _stream(monitor, receiver, fork, what, size=record.shape.memory)
            stopped = time.monotonic() - _downtime(monitor)
            files.copy_sparse(overlay, fork.folder / argv.FORK_DISK, mode=0o400)
        finally:
            with suppress(MachineError):
                monitor.execute("cont")
        pause = time.monotonic() - stopped
        saved.wait(receiver, what)
        with files.writing(fork.folder / DEVICES, mode=0o400, sync=False) as stream:
            saved.send(stream, receiver, what, ram=False)
    return replace(fork, pause=pause)


@contextmanager
def _receiver(launch: Launch, fork: Fork) -> Iterator[Monitor]:
    """Yield the monitor of a QEMU that waits for the machine's RAM, and ends with the block."""
    named = forks.receiver_of(launch.record.home, fork.folder)
    # Its devices must be the same; what is on its disk does not matter, since it never runs.
    record = replace(launch.record, name=named.name, home=named.home, forks=())
    record.folder.mkdir(parents=True, mode=0o700)
    for path, size in (
        (fork.folder / RAM, record.shape.memory),
        (record.folder / argv.OVERLAY, record.shape.disk),
    ):
        with path.open("xb") as stream:
            path.chmod(0o600)
            stream.truncate(size)
    ram = RamFile(path=fork.folder / RAM, shared=True)
    try:
        launching.spawn(replace(launch, record=record, incoming=True, asleep=True, ram=ram))
        with qmp.connect(launching.monitor_socket(record)) as monitor:
            yield monitor
    finally:
        forks.end_receiver(record)


def _stream(monitor: Monitor, receiver: Monitor, fork: Fork, what: str, *, size: int) -> None:
    """Send a running guest, its RAM to the fork's file and the rest to another QEMU; it stands still at the end."""
    with ExitStack() as stack:
        ram = stack.enter_context((fork.folder / RAM).open("r+b"))
        from_parent, to_sieve = _pipe(stack)
        from_sieve, to_receiver = _pipe(stack)
        saved.listen(from_sieve, receiver)
        sieve = Sieve(from_parent.fileno(), sink=to_receiver.fileno(), ram=ram.fileno(), size=size)
        with ThreadPoolExecutor(1, "mlvm-sieve") as threads:
            carried = threads.submit(_carry, sieve, from_parent, to_receiver)
            try:
                saved.send(to_sieve, monitor, what, patience=PATIENCE)
            except MachineError:
                to_sieve.close()
                carried.result()  # it may know better why
                raise
            finally:
                to_sieve.close()
            carried.result()


def _carry(sieve: Sieve, source: IO[bytes], sink: IO[bytes]) -> None:
    """Let a sieve do its work; whatever comes of that, both ends hear that it is over."""
    # A receiver that ends is an error to tell of; on the command line the signal would end us.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        with source, sink:
            sieve.run()
    except OSError as broken:
        raise MachineError("a guest's RAM cannot be written", details=str(broken)) from None


def _pipe(stack: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Return the two ends of a roomy pipe, closed with the stack."""
    reading, writing = os.pipe()
    ends = open(reading, "rb", 0), open(writing, "wb", 0)  # noqa: PTH123, SIM115
    for end in ends:
        stack.enter_context(end)
    with suppress(OSError):  # an ordinary user may have no more than so much in pipes
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE)
    return ends


def _downtime(monitor: Monitor) -> float:
    """Return for how many seconds a guest that has been sent had been stopped when it was."""
    return float(monitor.execute("query-migrate").get("downtime", 0)) / 1000


def _write_back(disk: Path) -> None:
    """Write to the host's disk what it has cached of a file: QEMU does that, too, while the guest stands still."""
    descriptor = os.open(disk, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
