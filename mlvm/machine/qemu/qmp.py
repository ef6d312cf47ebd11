"""QMP, QEMU's monitor: one JSON object a line over a unix socket, a command and its answer in turn.

QEMU serves one client at a time, so a connection is also a hold. Not the package `qemu.qmp`: it speaks asyncio only,
so that it needs a loop in a thread of its own in a notebook, and importing both takes longer than all else that a
start from standby does on the host (90 of 300 ms). What is used of the protocol is its core: the greeting, commands,
answers, events that are passed over, and a descriptor beside `getfd`
(https://www.qemu.org/docs/master/interop/qmp-spec.html).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mlvm import files
from mlvm.errors import MachineError

#: Seconds within which QEMU answers; it may be busy writing.
ANSWER = 30.0


class _RefusedError(Exception):
    """QEMU would not; the text is its own."""


class Monitor:
    """A connection to QEMU's monitor, after its greeting."""

    def __init__(self, connection: socket.socket, lines: IO[bytes]) -> None:
        self._connection = connection
        self._lines = lines
        self._next()  # the greeting
        self._ask("qmp_capabilities", {})

    def execute(self, command: str, **arguments: object) -> Any:
        """Execute a command and return its answer. Raises MachineError with QEMU's reason."""
        return self.execute_with(command, {key.replace("_", "-"): value for key, value in arguments.items()})

    def execute_with(self, command: str, arguments: dict[str, object]) -> Any:
        """Execute a command whose arguments are named with underscores, as older ones are."""
        return self._explained(command, arguments)

    def human(self, line: str) -> str:
        """Execute a line of the human monitor and return what it prints."""
        return str(self.execute("human-monitor-command", command_line=line))

    def hand_over(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file, for commands that say `fd:name`."""
        self._explained("getfd", {"fdname": name}, [descriptor])

    def _explained(self, command: str, arguments: dict[str, object], descriptors: Sequence[int] = ()) -> Any:
        try:
            return self._ask(command, arguments, descriptors)
        except _RefusedError as refused:
            raise MachineError(f"QEMU refused `{command}`: {refused}") from None
        except TimeoutError:
            raise MachineError(f"QEMU did not answer `{command}` in {ANSWER:.0f} s") from None
        except (OSError, EOFError, ValueError) as broken:
            raise MachineError(f"QEMU ended during `{command}`", details=str(broken)) from None

    def _ask(self, command: str, arguments: dict[str, object], descriptors: Sequence[int] = ()) -> Any:
        line = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        if descriptors:
            # They go with the first byte; the rest may not fit at once.
            socket.send_fds(self._connection, [line[:1]], list(descriptors))
            line = line[1:]
        self._connection.sendall(line)
        while True:
            message = self._next()
            if "error" in message:
                raise _RefusedError(message["error"]["desc"])
            if "return" in message:  # all else is an event
                return message["return"]

    def _next(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise EOFError("its monitor closed the connection")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def connect(path: Path, *, wait: bool = True) -> Iterator[Monitor]:
    """Yield a connection to the monitor at `path`; others wait meanwhile. Raises MachineError.

    Without `wait`, raise BlockingIOError where somebody else has it.
    """
    if not path.exists():
        raise MachineError("the machine is not running", details=f"there is no {path}")
    with (
        files.hold(path.with_suffix(".hold"), wait=wait),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
        connection.makefile("rb") as lines,
    ):
        connection.settimeout(ANSWER)
        try:
            connection.connect(os.fspath(path))
            monitor = Monitor(connection, lines)
        except (OSError, EOFError, ValueError, _RefusedError) as refused:
            raise MachineError("the machine is not running", details=f"{path}: {refused}") from None
        yield monitor
