"""JSON lines over one descriptor that is never trusted to stay up.

A virtio-serial port has no connections of its own: when the host's client goes, reads return nothing and the
descriptor lives on; when the next one comes quickly, its bytes simply follow the old one's. So a client says
`hello` with a nonce before anything else, whatever was under way, and a `hello` in the middle of a
conversation means that another client speaks now (`Replaced`). Bytes that are no JSON object on one line are
thrown away.
"""

from __future__ import annotations

import binascii
import json
import os
import select
import time

TYPE_CHECKING = False  # `typing` itself took a tenth of the time of the agent's imports
if TYPE_CHECKING:
    from typing import Any

#: The longest line either side sends is a chunk in base64 with a few words around it.
CHUNK = 48 * 1024
LINE_LIMIT = 1024 * 1024
#: A program's output is read no further while this much waits to be sent.
OUTPUT_LIMIT = 4 * CHUNK

#: How often a descriptor is read before its messages are looked at.
READS = 16

Message = dict[str, "Any"]


class Vanished(Exception):  # noqa: N818 - an end, not an error
    """The client is gone."""


class Replaced(Exception):  # noqa: N818
    """Another client has said hello; `message` is what it said."""

    def __init__(self, message: Message) -> None:
        super().__init__("another client speaks now")
        self.message = message


def encode(data: bytes) -> str:
    """Return bytes as they travel in a message."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode(text: object) -> bytes:
    """Return the bytes of a message's field. Raises ValueError when it holds none."""
    if not isinstance(text, str):
        raise ValueError("data must be a string in base64")  # noqa: TRY004 - a bad request is a ValueError
    return binascii.a2b_base64(text)


class Wire:
    """A conversation over descriptor `fd`, which must be non-blocking and stays the caller's.

    The driver of a virtio-serial port carries data and "the host has hung up" by different queues, so a
    hang-up may be seen after the next client's first bytes. Hence `patience`: a hang-up counts when it lasts
    so many seconds; and hence neither what has been read nor that somebody has said hello is forgotten over
    one.
    """

    def __init__(self, fd: int, *, patience: float = 0.0) -> None:
        self.fd = fd
        self.greeted = False
        self._patience = patience
        self._in = bytearray()
        #: How much of it holds no line end, as we know already.
        self._searched = 0
        self._skipping = False
        self._out = bytearray()

    @property
    def waiting(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._out)

    def fill(self) -> None:
        """Read what has arrived, if anything. Raises Vanished when nobody is there.

        A port hands out a page at a time, so a few are asked for at once.
        """
        for _ in range(READS):
            try:
                data = os.read(self.fd, 65536)
            except BlockingIOError:
                return
            except OSError as gone:
                raise Vanished from gone
            if not data:
                self._check_gone()
                return
            self._in += data

    def _check_gone(self) -> None:
        """Raise Vanished unless the host side is open again, or never was closed, or has left something."""
        deadline = time.monotonic() + self._patience
        while self.deserted():
            if time.monotonic() >= deadline:
                self._out.clear()
                raise Vanished
            time.sleep(0.01)
        if not self._patience:
            raise Vanished

    def deserted(self) -> bool:
        """Tell whether the host side is closed and has left nothing; what it has left is kept.

        A port whose host side is closed says that it can be read, as a file at its end does: only reading tells.
        """
        state = select.poll()
        state.register(self.fd, select.POLLIN)
        if not any(events & select.POLLHUP for _, events in state.poll(0)):
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:
            return False
        self._in += data
        return not data

    def take(self) -> Message | None:
        """Return the next whole message that has arrived, or None. Raises Replaced for a `hello`."""
        while (end := self._in.find(b"\n", self._searched)) >= 0:
            line = bytes(memoryview(self._in)[:end])
            del self._in[: end + 1]
            self._searched = 0
            if self._skipping:
                self._skipping = False
                continue
            message = parse(line)
            if message is None:
                continue
            if message.get("op") == "hello":
                raise Replaced(message)
            return message
        if len(self._in) > LINE_LIMIT:
            self._in.clear()
            self._skipping = True
        self._searched = len(self._in)
        return None

    def receive(self) -> Message:
        """Wait for the next message; everything queued is sent meanwhile."""
        while (message := self.take()) is None:
            self.wait()
        return message

    def wait(self) -> None:
        """Wait until something has arrived, sending what is queued."""
        for events in self.poll([]).values():
            self.carry(events)

    def poll(self, others: list[tuple[int, int]], timeout: float | None = None) -> dict[int, int]:
        """Wait for the descriptor or any of `others` (descriptor, events) and return what happened."""
        waiter = select.poll()
        waiter.register(self.fd, select.POLLIN | (select.POLLOUT if self._out else 0))
        for fd, events in others:
            waiter.register(fd, events)
        return dict(waiter.poll(None if timeout is None else timeout * 1000))

    def carry(self, events: int) -> None:
        """Read and write as `events` of the descriptor allow."""
        if events & select.POLLOUT:
            self.drain()
        if events & ~select.POLLOUT:
            self.fill()

    def drain(self) -> None:
        """Send as much of the queue as goes without waiting."""
        while self._out:
            try:
                sent = os.write(self.fd, memoryview(self._out)[:65536])
            except BlockingIOError:
                return
            except OSError as gone:
                raise Vanished from gone
            del self._out[:sent]

    def queue(self, message: Message) -> None:
        """Queue a message; `wait`, `receive` or `send` carry it."""
        self._out += json.dumps(message, separators=(",", ":")).encode() + b"\n"

    def send(self, message: Message) -> None:
        """Send a message, with everything queued before it."""
        self.queue(message)
        self.drain()
        while self._out:
            self.wait()

    def greet(self, message: Message) -> None:
        """Answer a `hello`: what was still queued belongs to a client that is gone."""
        self.greeted = True
        self._out[:] = b"\n"
        self.queue(message)

    def flush(self, seconds: float) -> None:
        """Send what is queued, for at most so long."""
        deadline = time.monotonic() + seconds
        while self._out and (left := deadline - time.monotonic()) > 0:
            for events in self.poll([], left).values():
                self.carry(events)


def parse(line: bytes) -> Message | None:
    """Return the JSON object on a line, or None when there is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
