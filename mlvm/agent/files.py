"""Put a file into the guest, whole or not at all, and get one out.

Content travels in chunks, so neither side ever holds more than a few of them. A `put` that fails (disk full,
no such folder) goes on reading to the end of the content and then answers with the reason.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH104, PTH108, PTH117, PTH118

from __future__ import annotations

import os
import stat
from contextlib import suppress

from .wire import CHUNK, OUTPUT_LIMIT, Message, Wire, decode, encode
from .world import World, account


def put(world: World, wire: Wire, request: Message) -> None:
    """Receive {"data": ...} lines up to {"end": true}; the file then appears under its name at once."""
    del world
    failure: Exception | None = None
    writer: _Whole | None = None
    try:
        try:
            writer = _Whole(request)
        except (OSError, ValueError, LookupError) as failed:
            failure = failed
        while not (part := wire.receive()).get("end"):
            if writer is not None and failure is None:
                try:
                    writer.write(decode(part.get("data")))
                except (OSError, ValueError) as failed:
                    failure = failed
        if failure is not None or writer is None:
            raise failure or ValueError("nothing was written")
        writer.finish()
        wire.queue({"ok": None})
    finally:
        if writer is not None:
            writer.discard()


class _Whole:
    """A file being written beside its final name."""

    def __init__(self, request: Message) -> None:
        self.path = _absolute(request)
        owner = account(request["owner"]) if request.get("owner") else None
        mode = int(request.get("mode", 0o644))
        folder, name = os.path.split(self.path)
        self.temporary = os.path.join(folder, f".mlvm-{os.getpid()}-{os.urandom(4).hex()}-{name[:80]}")
        self._fd = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if owner is not None:
            os.fchown(self._fd, owner.pw_uid, owner.pw_gid)
        os.fchmod(self._fd, mode)

    def write(self, data: bytes) -> None:
        """Append `data`."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def finish(self) -> None:
        """Give the file its name; it has reached the disk before."""
        os.fsync(self._fd)
        os.rename(self.temporary, self.path)

    def discard(self) -> None:
        """Close, and remove what did not get its name."""
        os.close(self._fd)
        with suppress(FileNotFoundError):
            os.unlink(self.temporary)


def get(world: World, wire: Wire, request: Message) -> None:
    """Send {"data": ...} lines, then {"ok": size}.

    Only regular files are files here: a FIFO would never end.
    """
    del world
    fd = os.open(_absolute(request), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError(f"`{request['path']}` is no regular file")
        size = 0
        while data := os.read(fd, CHUNK):
            size += len(data)
            wire.queue({"data": encode(data)})
            while wire.waiting > OUTPUT_LIMIT:
                wire.wait()
        wire.queue({"ok": size})
    finally:
        os.close(fd)


def _absolute(request: Message) -> str:
    path = request["path"]
    if not isinstance(path, str) or not os.path.isabs(path) or "\0" in path:
        raise ValueError("`path` must be an absolute path in the guest")
    return path
