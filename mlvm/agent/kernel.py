"""One Jupyter kernel as the agent knows it: a process, and the channel to it."""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH108, PTH118, PTH120

from __future__ import annotations

import json
import os
import select
import socket
import threading
from contextlib import suppress

from .wire import Message

PACKET = 1 << 20


class Kernel:
    """A kernel process: where to reach it, and how it ended."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.channel = channel
        self.ended = threading.Event()
        self.code: int | None = None
        self.folder = ""
        #: What `keeping` tells of it: its connection, and who asked for it.
        self.about: Message = {}

    def end(self, code: int) -> None:
        """Remember how it ended; its keys end with it."""
        self.code = code
        self.ended.set()
        self.channel.close()
        self.forget_keys()

    def forget_keys(self) -> None:
        """Remove the file with its keys."""
        if self.folder:
            with suppress(OSError):  # the kernel tidies up too, and may have left something of its own
                os.unlink(os.path.join(self.folder, "connection.json"))

    def tell(self, message: Message) -> None:
        """Send a message down the channel; what it still had to say to an earlier one is thrown away."""
        with suppress(OSError):
            while self.channel.recv(PACKET, socket.MSG_DONTWAIT):
                pass
        with suppress(OSError):
            self.channel.send(json.dumps(message).encode())

    def hear(self, seconds: float) -> None:
        """Wait for an answer, but not longer."""
        self.answer(seconds)

    def answer(self, seconds: float) -> Message:
        """Return its answer, or nothing when none comes in time."""
        with suppress(OSError):
            return receive(self.channel, seconds)
        return {}


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a channel that keeps messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def receive(channel: socket.socket, seconds: float) -> Message:
    """Return the next message of a channel. Raises OSError when none comes, or the other end is gone."""
    waiter = select.poll()
    waiter.register(channel, select.POLLIN)
    if not waiter.poll(seconds * 1000):
        raise OSError(f"no answer in {seconds:.0f} s")
    data = channel.recv(PACKET)
    if not data:
        raise OSError("it has ended")
    message: Message = json.loads(data)
    return message


def script(name: str) -> str:
    """Return the path of a program that lies beside this module."""
    return os.path.join(os.path.dirname(os.path.realpath(__file__)), name)
