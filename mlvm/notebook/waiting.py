"""Waiting for a guest inside an ipykernel's own loop, which goes on with everything else meanwhile.

Interrupts come as SIGINT to the main thread, and raised there they would hit the loop itself, wherever it is. So while
something is waited for, the signal is a message like any other: it goes to the guest, and a second one, some time
later, gives up waiting.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from mlvm.errors import MlvmError
from mlvm.notebook.link import Heard, Link, Request

#: Seconds between a first interrupt and one that gives up: keys are pressed twice by accident.
PATIENCE = 2.0


class GaveUpError(Exception):
    """A person interrupted twice, and the guest has not stopped."""


class LostError(Exception):
    """The kernel is gone: `error` says why, `request` how far it was."""

    def __init__(self, error: MlvmError, request: Request) -> None:
        super().__init__(error.message)
        self.error = error
        self.request = request


async def ask(
    link: Link,
    kind: str,
    content: Mapping[str, Any],
    *,
    header: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    buffers: Sequence[Any] = (),
    awaits: Sequence[str] = ("reply",),
    with_status: bool = False,
    interruptible: bool = True,
    on_input: Callable[[dict[str, Any]], Awaitable[str]] | None = None,
    on_reply: Callable[[dict[str, Any], Heard], None] | None = None,
) -> dict[str, Any]:
    """Ask the guest and return its reply; raises LostError and GaveUpError.

    `on_input` asks a person what the guest asks; an interrupt ends that, too. `on_reply` has the reply, parsed
    and as it was heard, when it comes, before all that is awaited has.
    """
    events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def tell(what: str, value: Any) -> None:
        with suppress(RuntimeError):  # the loop has ended, and who waited with it
            loop.call_soon_threadsafe(events.put_nowait, (what, value))

    with ExitStack() as stack:
        if interruptible:
            stack.enter_context(_interrupts(lambda: tell("interrupt", time.monotonic())))
        request = link.request(
            kind,
            content,
            header=header,
            tell=tell,
            awaits=awaits,
            metadata=metadata,
            buffers=buffers,
            with_status=with_status,
        )
        return await _answer(link, request, events, on_input, on_reply)


async def _answer(
    link: Link,
    request: Request,
    events: asyncio.Queue[tuple[str, Any]],
    on_input: Callable[[dict[str, Any]], Awaitable[str]] | None,
    on_reply: Callable[[dict[str, Any], Heard], None] | None,
) -> dict[str, Any]:
    interrupted = 0.0
    asking: asyncio.Task[None] | None = None

    async def put(question: dict[str, Any]) -> None:
        if on_input is not None:
            link.answer(await on_input(question))

    try:
        while True:
            what, value = await events.get()
            if what == "done":
                reply: dict[str, Any] = value
                return reply
            if what == "lost":
                raise LostError(value, request)
            if what == "reply" and on_reply is not None:
                on_reply(value.content(), value)
            elif what == "input":
                asking = asyncio.create_task(put(value))
            elif what == "interrupt":
                if interrupted and value - interrupted > PATIENCE:
                    link.forget(request)
                    raise GaveUpError
                interrupted = interrupted or value
                if asking is not None:
                    asking.cancel()
                link.interrupt()
    finally:
        if asking is not None:
            asking.cancel()


@contextmanager
def _interrupts(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` for each interrupt, in the main thread, where they come."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: tell())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
