"""A client of the shared folders' server, as small as tests need: it speaks bytes, and sees what a guest would."""

from __future__ import annotations

import itertools
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlvm.machine.share import nfs
from mlvm.machine.share.rpc import LAST_FRAGMENT, Answering
from mlvm.machine.share.tree import Tree
from mlvm.machine.share.xdr import Reader, opaque, u32, u64

_XIDS = itertools.count(1)
NOTHING_CHANGES = u32(0) * 6


def call(program: int, procedure: int, arguments: bytes, *, xid: int | None = None) -> bytes:
    """Return a record with its mark."""
    xid = next(_XIDS) if xid is None else xid
    header = struct.pack(">6I", xid, 0, 2, program, 3, procedure)
    body = header + u32(1) + opaque(b"who") + u32(0) + opaque(b"") + arguments
    return u32(LAST_FRAGMENT | len(body)) + body


@dataclass
class Seen:
    """Some of a file's attributes."""

    kind: int
    mode: int
    uid: int
    size: int
    inode: int


def seen(reader: Reader) -> Seen:
    kind, mode, _, uid, _ = (reader.u32() for _ in range(5))
    size, _ = reader.u64(), reader.u64()
    reader.fixed(16)
    inode = reader.u64()
    reader.fixed(24)
    return Seen(kind, mode, uid, size, inode)


class Client:
    """Asks one server about one folder."""

    #: All there are; their servers hold descriptors.
    made: ClassVar[list[Client]] = []

    def __init__(self, folder: Path, *, write: bool = True, number: int = 0) -> None:
        self.tree = Tree(number, os.fspath(folder), write=write)
        self.made.append(self)
        self.root = bytes([number])
        files = nfs.Files(lambda wanted: self.tree if wanted == number else None)
        self.answering = Answering(files.program(), once=nfs.ONCE)

    def ask(self, procedure: int, arguments: bytes, *, xid: int | None = None) -> tuple[int, Reader]:
        """Return the status and the rest of the answer."""
        answer = self.answering.answer(call(nfs.NUMBER, procedure, arguments, xid=xid)[4:])
        assert answer is not None
        reader = Reader(answer, 4)
        assert reader.fixed(4)
        assert [reader.u32() for _ in range(2)] == [1, 0]
        reader.fixed(8)
        assert reader.u32() == 0
        return reader.u32(), reader

    def handle(self, path: str) -> bytes:
        """Walk down a path. Raises OSError with the server's number."""
        found = self.root
        for name in path.encode().split(b"/"):
            status, reader = self.ask(3, opaque(found) + opaque(name))
            if status:
                raise OSError(status, path)
            found = reader.opaque(64)
        return found

    def getattr(self, handle: bytes) -> Seen:
        status, reader = self.ask(1, opaque(handle))
        if status:
            raise OSError(status, "getattr")
        return seen(reader)

    def read(self, handle: bytes, offset: int = 0, count: int = 1 << 20) -> bytes:
        status, reader = self.ask(6, opaque(handle) + u64(offset) + u32(count))
        if status:
            raise OSError(status, "read")
        assert reader.u32() == 1
        seen(reader)
        reader.u32()
        reader.u32()
        return reader.opaque(1 << 20)

    def write(self, handle: bytes, data: bytes, offset: int = 0) -> int:
        return self.ask(7, opaque(handle) + u64(offset) + u32(len(data)) + u32(0) + opaque(data))[0]

    def create(self, folder: bytes, name: bytes, *, mode: int = 0o644, how: int = 1) -> tuple[int, bytes]:
        changes = u32(1) + u32(mode) + u32(0) * 5
        status, reader = self.ask(8, opaque(folder) + opaque(name) + u32(how) + changes)
        if status:
            return status, b""
        assert reader.u32() == 1
        return 0, reader.opaque(64)

    def names(self, handle: bytes, *, most: int = 4096, plus: bool = True) -> list[bytes]:
        """List a folder in as many answers as it takes."""
        found: list[bytes] = []
        cookie, end = 0, False
        while not end:
            sizes = u32(most) + u32(most) if plus else u32(most)
            status, reader = self.ask(17 if plus else 16, opaque(handle) + u64(cookie) + bytes(8) + sizes)
            if status:
                raise OSError(status, "readdir")
            if reader.u32():
                seen(reader)
            reader.fixed(8)
            while reader.u32():
                reader.u64()
                found.append(reader.opaque(255))
                cookie = reader.u64()
                if plus:
                    if reader.u32():
                        seen(reader)
                    if reader.u32():
                        reader.opaque(64)
            end = bool(reader.u32())
        return found


def mode_of(path: Path) -> int:
    """Return the permission bits of a file of the host."""
    return stat.S_IMODE(path.lstat().st_mode)
