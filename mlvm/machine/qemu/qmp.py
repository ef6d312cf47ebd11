"""QMP, QEMU's monitor, for code that is not asynchronous.

`qemu.qmp` speaks asyncio only. Its loop runs in a thread of its own here, because a caller may itself be
inside a running loop: a notebook's cell always is. QEMU serves one client at a time, so a connection is also
a hold. Both packages are imported by whoever connects: together they take longer than looking at all machines.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlvm import files
from mlvm.errors import MachineError

if TYPE_CHECKING:
    import asyncio

    from qemu.qmp import QMPClient

T = TypeVar("T")
#: Seconds within which QEMU answers; it may be busy writing.
ANSWER = 30.0
#: It logs a refused connection as an error; here that is an answer. Who wants to read it sets a handler.
_QUIET = logging.NullHandler()


class Monitor:
    """A connection to QEMU's monitor."""

    def __init__(self, client: QMPClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def execute(self, command: str, **arguments: object) -> Any:
        """Execute a command and return its answer. Raises MachineError with QEMU's reason."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self._call(command, lambda: self._client.execute(command, named))

    def human(self, line: str) -> str:
        """Execute a line of the human monitor and return what it prints."""
        return str(self.execute("human-monitor-command", command_line=line))

    def hand_over(self, name: str, descriptor: int) -> None:
        """Give QEMU an open file, for commands that say `fd:name`."""

        async def send() -> None:
            self._client.send_fd_scm(descriptor)
            await self._client.execute("getfd", {"fdname": name})

        self._call("getfd", send)

    def _call(self, what: str, work: Callable[[], Awaitable[T]]) -> T:
        from qemu.qmp import ExecuteError, QMPError

        try:
            return _finish(self._loop, work)
        except ExecuteError as refused:
            raise MachineError(f"QEMU refused `{what}`: {refused}") from None
        except TimeoutError:
            raise MachineError(f"QEMU did not answer `{what}` in {ANSWER:.0f} s") from None
        except (QMPError, OSError, EOFError) as broken:
            raise MachineError(f"QEMU ended during `{what}`", details=str(broken)) from None


@contextmanager
def connect(socket: Path) -> Iterator[Monitor]:
    """Yield a connection to the monitor at `socket`; others wait meanwhile. Raises MachineError."""
    from qemu.qmp import QMPError

    logging.getLogger("qemu.qmp").addHandler(_QUIET)
    if not socket.exists():
        raise MachineError("the machine is not running", details=f"there is no {socket}")
    with files.hold(socket.with_suffix(".hold")), _loop() as loop:
        client = _finish(loop, _new_client)
        try:
            _finish(loop, lambda: client.connect(os.fspath(socket)))
        except (QMPError, OSError, EOFError, TimeoutError) as refused:
            raise MachineError("the machine is not running", details=f"{socket}: {refused}") from None
        try:
            yield Monitor(client, loop)
        finally:
            _finish(loop, lambda: _disconnect(client))


async def _new_client() -> QMPClient:
    from qemu.qmp import QMPClient

    return QMPClient("mlvm")


async def _disconnect(client: QMPClient) -> None:
    from qemu.qmp import QMPError

    try:
        await client.disconnect()
    except (QMPError, OSError, EOFError):
        return  # QEMU was quicker


def _finish(loop: asyncio.AbstractEventLoop, work: Callable[[], Awaitable[T]]) -> T:
    """Do `work` in the loop's thread and wait for it."""
    import asyncio

    async def limited() -> T:
        return await asyncio.wait_for(work(), ANSWER)

    return asyncio.run_coroutine_threadsafe(limited(), loop).result()


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Yield an event loop that runs in a thread of its own while the block runs."""
    import asyncio

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="mlvm-qmp", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(loop.shutdown_asyncgens(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
