"""A program's three streams between us and the agent, in one loop of one thread.

Input flows by credit: the agent takes `window` bytes and says when the program has read some, so a program
that reads slowly slows us and nobody else. Our own input is waited for only while there is credit. A terminal
of ours is put in raw mode for the time, and its size follows the window's.
"""

from __future__ import annotations

import binascii
import os
import select
import signal
import termios
import threading
import time
import tty as terminal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any, Protocol

from mlvm.errors import GuestError

CHUNK = 48 * 1024
#: After so much silence the agent is asked for a sign of life, and after so much more it is given up.
QUIET, DEAD = 15.0, 60.0


class Conversation(Protocol):
    """What we need of a `session.Session`."""

    def fileno(self) -> int: ...
    def send(self, message: dict[str, Any]) -> None: ...
    def take(self) -> dict[str, Any] | None: ...
    def fill(self, seconds: float) -> None: ...


class Input(Protocol):
    """Where a program's input comes from."""

    @property
    def descriptor(self) -> int | None:
        """What select can wait for; None when `read` never blocks."""

    def read(self, limit: int) -> bytes:
        """Return some bytes; none at the end."""


class BytesInput:
    """Input that is all there already."""

    descriptor = None

    def __init__(self, content: bytes) -> None:
        self._rest = memoryview(content)

    def read(self, limit: int) -> bytes:
        """Return the next bytes."""
        part, self._rest = self._rest[:limit], self._rest[limit:]
        return bytes(part)


class DescriptorInput:
    """Input from a file, pipe or terminal, as it comes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor: int | None = descriptor
        self._fd = descriptor

    def read(self, limit: int) -> bytes:
        """Return what is there; a terminal that went away is the end."""
        try:
            return os.read(self._fd, limit)
        except OSError:
            return b""


class ObjectInput:
    """Input from a file object without a descriptor, such as BytesIO."""

    descriptor = None

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source

    def read(self, limit: int) -> bytes:
        """Return the next bytes."""
        return self._source.read(limit)


@dataclass(kw_only=True, slots=True)
class Streams:
    """The three streams, and for a terminal how to learn its size and when it changed."""

    stdin: Input
    out: Callable[[bytes], object]
    err: Callable[[bytes], object]
    winsize: Callable[[], list[int]] | None = None
    #: Becomes readable when the window has been resized.
    resized: int | None = None

    @classmethod
    @contextmanager
    def of_files(
        cls, stdin: IO[bytes] | None, stdout: IO[bytes], stderr: IO[bytes], *, tty: bool
    ) -> Iterator[Streams]:
        """Yield streams over file objects; with `tty`, our terminal is raw while the block runs."""
        streams = cls(stdin=_input_of(stdin), out=_writer(stdout), err=_writer(stderr))
        with ExitStack() as stack:
            if tty:
                streams.winsize = lambda: _window_size(stdout)
                streams.resized = stack.enter_context(_resizes())
                if streams.stdin.descriptor is not None:
                    stack.enter_context(raw_terminal(streams.stdin.descriptor))
            yield streams


def run_streams(session: Conversation, streams: Streams, *, window: int, timeout: float | None) -> int:
    """Carry everything until the program has ended; return its exit code.

    Raises GuestError when the agent falls silent, and after `timeout` seconds (the program is killed then).
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    credit, open_input, heard = window, True, time.monotonic()
    asked = False
    while True:
        while (message := session.take()) is not None:
            heard, asked = time.monotonic(), False
            if "exit" in message:
                return int(message["exit"])
            credit += int(message.get("took", 0))
            _deliver(streams, message)
        now = time.monotonic()
        if deadline is not None and now > deadline:
            session.send({"signal": signal.SIGKILL})
            raise GuestError(f"the program in the guest did not finish in {timeout:g} s, and was killed")
        if now - heard > DEAD:
            raise GuestError("the guest does not answer", hint="`mlvm console` shows what it says")
        if now - heard > QUIET and not asked:
            asked = True
            session.send({"beat": 1})
        happened = _wait(session, streams, reading=open_input and credit > 0, until=deadline)
        if streams.resized is not None and streams.resized in happened:
            os.read(streams.resized, 512)
            session.send({"winsize": streams.winsize() if streams.winsize else [24, 80]})
        if open_input and credit > 0 and streams.stdin.descriptor in happened:
            data = streams.stdin.read(min(CHUNK, credit))
            credit -= len(data)
            open_input = bool(data)
            session.send({"in": binascii.b2a_base64(data, newline=False).decode("ascii") if data else None})
        if session.fileno() in happened:
            session.fill(1.0)


def _wait(session: Conversation, streams: Streams, *, reading: bool, until: float | None) -> set[int | None]:
    """Return what is ready: descriptors, and None for an input that never blocks."""
    always = reading and streams.stdin.descriptor is None
    seconds = 1.0 if until is None else max(0.0, min(1.0, until - time.monotonic()))
    waiter = select.poll()
    waiter.register(session.fileno(), select.POLLIN)
    for descriptor in (streams.resized, streams.stdin.descriptor if reading else None):
        if descriptor is not None:
            waiter.register(descriptor, select.POLLIN)
    happened: set[int | None] = {descriptor for descriptor, _ in waiter.poll(0 if always else seconds * 1000)}
    if always:
        happened.add(None)
    return happened


def _deliver(streams: Streams, message: dict[str, Any]) -> None:
    if "error" in message:
        raise GuestError(str(message["error"]))
    if "out" in message:
        streams.out(binascii.a2b_base64(message["out"]))
    elif "err" in message:
        streams.err(binascii.a2b_base64(message["err"]))


def _input_of(stdin: IO[bytes] | None) -> Input:
    if stdin is None:
        return BytesInput(b"")
    try:
        return DescriptorInput(stdin.fileno())
    except (OSError, AttributeError):
        return ObjectInput(stdin)


def _writer(sink: IO[bytes]) -> Callable[[bytes], object]:
    def write(data: bytes) -> None:
        sink.write(data)
        sink.flush()

    return write


def _window_size(stdout: IO[bytes]) -> list[int]:
    try:
        size = os.get_terminal_size(stdout.fileno())
    except (OSError, AttributeError):
        return [24, 80]
    return [size.lines or 24, size.columns or 80]


@contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Pass every key on as it is typed, if `descriptor` is a terminal; give it back as it was."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        terminal.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def _resizes() -> Iterator[int | None]:
    """Yield a descriptor that becomes readable when the window's size changes; None off the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield None
        return
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def tell(_number: int, _frame: object) -> None:
        with suppress(BlockingIOError):
            os.write(writing, b"w")

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        yield reading
    finally:
        signal.signal(signal.SIGWINCH, before)
        os.close(reading)
        os.close(writing)
