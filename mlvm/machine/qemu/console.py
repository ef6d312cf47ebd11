"""The guest's serial console on one's own terminal, left with Ctrl-]."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from mlvm import files
from mlvm.errors import MachineError
from mlvm.machine.qemu.argv import CONSOLE
from mlvm.machine.record import Record
from mlvm.machine.stream import raw_terminal

#: Ctrl-], as in telnet and virsh.
LEAVE = b"\x1d"


def attach(record: Record, stdin: IO[bytes], stdout: IO[bytes]) -> None:
    """Join a terminal to the machine's console until Ctrl-], the end of input, or the machine's end.

    Raises MachineError when the machine does not run, or somebody else is attached.
    """
    path = record.home.sockets(record.name) / CONSOLE
    if not path.exists():
        raise _not_running(record, f"there is no {path}")
    with _alone(record), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
        try:
            console.connect(str(path))
        except OSError as refused:
            raise _not_running(record, str(refused)) from None
        with raw_terminal(stdin.fileno()):
            _bridge(console, stdin.fileno(), stdout)


def _not_running(record: Record, details: str) -> MachineError:
    return MachineError(
        f"machine `{record.name}` has no console now: it is not running",
        details=details,
        hint=f"what its console said last is in `{record.console_log}`",
    )


@contextmanager
def _alone(record: Record) -> Iterator[None]:
    """Refuse to attach while somebody else is: QEMU would let us wait in silence."""
    try:
        with files.hold(record.home.sockets(record.name) / "console.hold", wait=False):
            yield
    except BlockingIOError:
        raise MachineError(
            f"somebody is attached to the console of machine `{record.name}` already"
        ) from None


def _bridge(console: socket.socket, keys: int, stdout: IO[bytes]) -> None:
    while True:
        readable, _, _ = select.select([console.fileno(), keys], [], [])
        if console.fileno() in readable:
            data = console.recv(4096)
            if not data:
                return
            stdout.write(data)
            stdout.flush()
        if keys in readable:
            typed = os.read(keys, 4096)
            before, leave, _ = typed.partition(LEAVE)
            if before:
                console.sendall(before)
            if leave or not typed:
                return
