"""Read an uncompressed erofs image: every path with what it is, to say where two images differ.

Pure Python, so that it names the files of a damaged image too, as an ordinary user, with owners and times that an
unpacked copy would not have. The format: Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h of Linux.
"""

from __future__ import annotations

import hashlib
import mmap
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlvm.errors import BuildError

_MAGIC = 0xE0F5E1E2
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII")
_COMPACT = struct.Struct("<HHHHIIIIHHI")
_EXTENDED = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBB")
_PLAIN, _INLINE = 0, 2
_SLOT = 32
_DEEPEST = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One path of an image; `digest` is of a file's bytes or a link's text, `mtime` in seconds."""

    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    digest: str

    def difference(self, other: Found) -> str:
        """Say in a few words how two entries of one path differ."""
        names = [name for name in self.__slots__ if getattr(self, name) != getattr(other, name)]
        return (
            "content" if names == ["digest"] else ", ".join("content" if n == "digest" else n for n in names)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Inode:
    layout: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    block: int
    tail: int


class ErofsReader:
    """An opened image. Raises BuildError for bytes that are no uncompressed erofs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            try:
                self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise self._broken("it is empty") from None
        try:
            fields = _SUPERBLOCK.unpack_from(self._data, 1024)
        except struct.error:
            raise self._broken("it is cut short") from None
        if fields[0] != _MAGIC:
            raise self._broken("it is no erofs image")
        self._block_size = 1 << min(fields[3], 16)
        self._root, self._time, self._meta = fields[5], fields[7], fields[10]

    def entries(self) -> dict[str, Found]:
        """Return everything in the image, by its path without a leading slash; the root is ""."""
        try:
            return dict(self._walk("", self._root, 0))
        except (struct.error, IndexError, ValueError, OverflowError) as broken:
            raise self._broken(str(broken)) from None

    def read(self, path: str) -> bytes:
        """Return the bytes of the file at `path` (no leading slash, no links on the way). Raises BuildError."""
        try:
            inode = self._inode(self._root)
            for name in path.split("/"):
                children = dict(self._names(self._content(inode)))
                if name not in children:
                    raise self._broken(f"it has no `/{path}`")
                inode = self._inode(children[name])
            if not stat.S_ISREG(inode.mode):
                raise self._broken(f"`/{path}` is no file")
            return self._content(inode)
        except (struct.error, IndexError, ValueError, OverflowError) as broken:
            raise self._broken(str(broken)) from None

    def close(self) -> None:
        """Close the image."""
        self._data.close()

    def _walk(self, path: str, number: int, depth: int) -> Iterator[tuple[str, Found]]:
        inode = self._inode(number)
        folder = stat.S_ISDIR(inode.mode)
        content = b"" if stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode) else self._content(inode)
        yield (
            path,
            Found(
                mode=inode.mode,
                uid=inode.uid,
                gid=inode.gid,
                mtime=inode.mtime,
                size=0 if folder else inode.size,
                digest="" if folder else hashlib.sha256(content).hexdigest(),
            ),
        )
        if folder:
            if depth > _DEEPEST:
                raise self._broken("its folders have no end")
            for name, child in self._names(content):
                if name not in {".", ".."}:
                    yield from self._walk(f"{path}/{name}" if path else name, child, depth + 1)

    def _inode(self, number: int) -> _Inode:
        offset = self._meta * self._block_size + number * _SLOT
        (form,) = struct.unpack_from("<H", self._data, offset)
        if form & 1:
            _, xattrs, mode, _, size, block, _, uid, gid, mtime, _, _ = _EXTENDED.unpack_from(
                self._data, offset
            )
            length = _EXTENDED.size
        else:
            _, xattrs, mode, _, size, _, block, _, uid, gid, _ = _COMPACT.unpack_from(self._data, offset)
            length, mtime = _COMPACT.size, self._time
        tail = offset + length + (12 + 4 * (xattrs - 1) if xattrs else 0)
        return _Inode(
            layout=(form >> 1) & 7,
            mode=mode,
            uid=uid,
            gid=gid,
            mtime=mtime,
            size=size,
            block=block,
            tail=tail,
        )

    def _content(self, inode: _Inode) -> bytes:
        if inode.layout not in {_PLAIN, _INLINE}:
            raise self._broken(f"it has data of layout {inode.layout}, which we never write")
        inlined = inode.size % self._block_size if inode.layout == _INLINE else 0
        start = inode.block * self._block_size
        content = self._data[start : start + inode.size - inlined] if inode.size > inlined else b""
        content += self._data[inode.tail : inode.tail + inlined]
        if len(content) != inode.size:
            raise self._broken("it is cut short")
        return content

    def _names(self, content: bytes) -> Iterator[tuple[str, int]]:
        for start in range(0, len(content), self._block_size):
            block = content[start : start + self._block_size]
            count = _DIRENT.unpack_from(block, 0)[1] // _DIRENT.size
            entries = [_DIRENT.unpack_from(block, index * _DIRENT.size) for index in range(count)]
            ends = [entry[1] for entry in entries[1:]] + [len(block)]
            for (number, begin, _, _), end in zip(entries, ends, strict=True):
                yield block[begin:end].rstrip(b"\0").decode("utf-8", "surrogateescape"), number

    def _broken(self, what: str) -> BuildError:
        return BuildError(f"`{self.path.name}` cannot be read as a file system: {what}")


def differences(first: Path, second: Path) -> list[str]:
    """Return a line for each path in which two images differ, `/path: how`; empty when they hold the same."""
    found = []
    for image in (first, second):
        reader = ErofsReader(image)
        try:
            found.append(reader.entries())
        finally:
            reader.close()
    ours, theirs = found
    lines = []
    for path in sorted(ours.keys() | theirs.keys()):
        if path not in theirs:
            lines.append(f"/{path}: only in the first")
        elif path not in ours:
            lines.append(f"/{path}: only in the second")
        elif ours[path] != theirs[path]:
            lines.append(f"/{path}: {ours[path].difference(theirs[path])}")
    return lines
