"""What a kernel has said, kept in two files beside its connection file: the newest, at most `LIMIT` bytes.

Both ends of the format are here: a kernel process appends, the agent's host reads, even when the kernel has ended.
One system call a message. When the newer file is full it becomes the older one, and the older one is forgotten; so
nothing is ever moved inside a file, and a kernel that is killed in the middle of a message spoils nothing but that.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH104, PTH118, PTH123

from __future__ import annotations

import os
import struct
import time

TYPE_CHECKING = False  # see `wire`
if TYPE_CHECKING:
    from typing import Any

NEWER, OLDER = "tape", "tape.old"
LIMIT = 16 << 20
MAGIC = b"mlvm"
#: Magic, number, time, flags, how many frames follow; then the size of each frame.
HEAD = struct.Struct("<4sQdBI")

#: Nobody was listening when it was said.
UNHEARD = 1
#: An answer to a request to execute, which goes to the client that asked and to nobody else.
REPLY = 2


class Message:
    """One message: its number (from 1), when it was said, flags, and the frames that went over the wire."""

    def __init__(self, number: int, said: float, flags: int, frames: list[bytes]) -> None:
        self.number = number
        self.said = said
        self.flags = flags
        self.frames = frames


class Tape:
    """The writer's end. Not for two threads at once."""

    def __init__(self, folder: str, *, limit: int = LIMIT) -> None:
        self.folder = folder
        self.last = 0
        self._limit = limit // 2
        self._fd = self._open()
        self._size = 0

    def append(self, flags: int, frames: list[Any]) -> int:
        """Keep a message and return its number; one that is larger than a file is counted and not kept."""
        self.last += 1
        views = [memoryview(frame).cast("B") for frame in frames]
        head = HEAD.pack(MAGIC, self.last, time.time(), flags, len(views))
        sizes = struct.pack(f"<{len(views)}I", *(len(view) for view in views))
        size = len(head) + len(sizes) + sum(len(view) for view in views)
        if size > self._limit:
            return self.last
        if self._size + size > self._limit:
            os.close(self._fd)
            os.rename(os.path.join(self.folder, NEWER), os.path.join(self.folder, OLDER))
            self._fd, self._size = self._open(), 0
        os.writev(self._fd, [head, sizes, *views])
        self._size += size
        return self.last

    def read(self, after: int) -> list[Message]:
        """Return what is kept of the messages after number `after`."""
        kept: list[Message] = []
        for name in (OLDER, NEWER):
            try:
                with open(os.path.join(self.folder, name), "rb") as stream:
                    kept += parse(stream.read())
            except FileNotFoundError:
                continue
        return [message for message in kept if message.number > after]

    def close(self) -> None:
        """Write no more."""
        os.close(self._fd)

    def _open(self) -> int:
        path = os.path.join(self.folder, NEWER)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)


def parse(data: bytes) -> list[Message]:
    """Return the whole messages of a file; whatever follows the last of them is left out."""
    messages: list[Message] = []
    at = 0
    while at + HEAD.size <= len(data):
        magic, number, said, flags, count = HEAD.unpack_from(data, at)
        at += HEAD.size
        if magic != MAGIC or at + 4 * count > len(data):
            break
        sizes = struct.unpack_from(f"<{count}I", data, at)
        at += 4 * count
        if at + sum(sizes) > len(data):
            break
        frames = []
        for size in sizes:
            frames.append(data[at : at + size])
            at += size
        messages.append(Message(number, said, flags, frames))
    return messages
