"""A conversation with a guest's agent: JSON lines over one port, each answer within a deadline.

The agent serves one client of a port after another and may still hold what it had for the last one. So a client says
hello with a nonce, and throws away everything before the greeting that carries it.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from typing import Any

from mlvm.errors import GuestError

#: Seconds within which a healthy agent answers, on a busy host under emulation.
ANSWER = 30.0

Message = dict[str, Any]


class Session:
    """One conversation with the agent, after its greeting."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = bytearray()
        self.greeting: Message = {}

    def fileno(self) -> int:
        """Let select wait for us."""
        return self.connection.fileno()

    def hello(self) -> str:
        """Announce ourselves and return the nonce the greeting must carry."""
        nonce = secrets.token_hex(8)
        self._send_bytes(b"\n" + _line({"op": "hello", "nonce": nonce}), seconds=ANSWER)
        return nonce

    def take_greeting(self, nonce: str) -> bool:
        """Look for our greeting in what has arrived; everything else belongs to somebody before us."""
        while (message := self._next()) is not None:
            if message.get("hello") == nonce:
                self.greeting = message
                return True
        return False

    def greet(self, seconds: float) -> None:
        """Say hello and wait for the answer to it."""
        self.greeted(self.hello(), seconds)

    def greeted(self, nonce: str, seconds: float) -> None:
        """Wait for the answer to a hello."""
        deadline = time.monotonic() + seconds
        while not self.take_greeting(nonce):
            self.fill(deadline - time.monotonic())

    def answer(self, seconds: float = ANSWER) -> Any:
        """Return the content of the next answer."""
        return content(self.receive(seconds))

    def send(self, message: Message) -> None:
        """Send one message."""
        self._send_bytes(_line(message), seconds=2 * ANSWER)

    def receive(self, seconds: float) -> Message:
        """Return the next message, within `seconds`."""
        deadline = time.monotonic() + seconds
        while (message := self._next()) is None:
            self.fill(deadline - time.monotonic())
        return message

    def take(self) -> Message | None:
        """Return a message that has arrived whole, if there is one."""
        return self._next()

    def fill(self, seconds: float) -> None:
        """Wait for bytes. Raises GuestError after `seconds` or when the machine is gone."""
        try:
            self.connection.settimeout(max(seconds, 0.001))
            data = self.connection.recv(256 * 1024)
        except TimeoutError:
            raise GuestError("the guest does not answer", hint="`mlvm console` shows what it says") from None
        except OSError as ended:
            raise _gone() from ended
        if not data:
            raise _gone()
        self._buffer += data

    def _next(self) -> Message | None:
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                return message
        return None

    def _send_bytes(self, data: bytes, *, seconds: float) -> None:
        try:
            self.connection.settimeout(seconds)
            self.connection.sendall(data)
        except TimeoutError:
            raise GuestError(
                "the guest takes no more data", hint="`mlvm console` shows what it says"
            ) from None
        except OSError as ended:
            raise _gone() from ended


def content(message: Message, *, key: str = "ok") -> Any:
    """Return field `key` of an answer. Raises GuestError when the answer is an error."""
    if "error" in message:
        path = f" (`{message['path']}`)" if message.get("path") else ""
        raise GuestError(f"{message['error']}{path}")
    if key not in message:
        raise GuestError(f"the agent's answer makes no sense: {json.dumps(message)[:200]}")
    return message[key]


def _gone() -> GuestError:
    return GuestError("the machine went away", hint="mlvm status shows why")


def _line(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
