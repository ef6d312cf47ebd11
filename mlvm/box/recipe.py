"""A file that is not written yet: pieces of other files, and zeros, one behind the other.

A disk of a gigabyte becomes a partition table, four layers, a qcow2 around them, a tar around that and a gzip around
that. As recipes all of these are lists of a few lines, and every byte is read once and written once, at the end.
Bytes of our own making go to one scratch file, so that a piece is always (file, offset, length).
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

#: Content is told apart from zeros in blocks of this size, and so are a disk's blocks in most of its wrappings.
BLOCK = 64 << 10
_PIECE = 1 << 20


class Piece(NamedTuple):
    """`length` bytes of the file `path` from `offset`; zeros where `path` is None."""

    path: Path | None
    offset: int
    length: int


@dataclass(slots=True)
class Scratch:
    """Bytes that are no file's yet; the caller removes the file."""

    path: Path
    size: int = 0

    def keep(self, content: bytes) -> Piece:
        """Keep some bytes and return where they are."""
        with self.path.open("ab") as stream:
            stream.write(content)
        piece = Piece(self.path, self.size, len(content))
        self.size += len(content)
        return piece


@dataclass(slots=True)
class Recipe:
    """The pieces of a file in order; only ever appended to."""

    scratch: Scratch
    pieces: list[Piece] = field(default_factory=list)
    size: int = 0
    _starts: list[int] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Append a piece; one that goes on where the last ends becomes one with it."""
        if not piece.length:
            return
        last = self.pieces[-1] if self.pieces else None
        if (
            last
            and last.path == piece.path
            and (last.path is None or last.offset + last.length == piece.offset)
        ):
            self.pieces[-1] = Piece(last.path, last.offset, last.length + piece.length)
        else:
            self._starts.append(self.size)
            self.pieces.append(piece)
        self.size += piece.length

    def file(self, path: Path, *, offset: int = 0, length: int | None = None) -> None:
        """Append a file, or a part of one."""
        self.add(Piece(path, offset, path.stat().st_size - offset if length is None else length))

    def data(self, content: bytes) -> None:
        """Append bytes."""
        self.add(self.scratch.keep(content))

    def zeros(self, length: int) -> None:
        """Append zeros."""
        self.add(Piece(None, 0, length))

    def zeros_to(self, offset: int) -> None:
        """Append zeros up to an offset; there must not be more already."""
        assert self.size <= offset, (self.size, offset)
        self.zeros(offset - self.size)

    def align(self, size: int) -> None:
        """Append zeros up to a multiple of `size`."""
        self.zeros(-self.size % size)

    def sparse_file(self, path: Path) -> None:
        """Append a file, and zeros for each of its blocks that is nothing else, whether it is a hole or not.

        So what is zeros does not depend on the host's file system.
        """
        size = path.stat().st_size
        begun = self.size
        for number in _full_blocks(path):
            self.zeros_to(begun + number * BLOCK)
            self.add(Piece(path, number * BLOCK, min(BLOCK, size - number * BLOCK)))
        self.zeros_to(begun + size)

    def recipe(self, other: Recipe) -> None:
        """Append all of another."""
        for piece in other.pieces:
            self.add(piece)

    def part(self, offset: int, length: int) -> Iterator[Piece]:
        """Yield the pieces of a part; zeros behind the end."""
        end = offset + length
        index = bisect_right(self._starts, offset) - 1
        while offset < end and offset < self.size:
            start, piece = self._starts[index], self.pieces[index]
            skip = offset - start
            take = min(piece.length - skip, end - offset)
            yield Piece(piece.path, piece.offset + skip, take)
            offset += take
            index += 1
        if offset < end:
            yield Piece(None, 0, end - offset)

    def full_blocks(self, size: int) -> Iterator[int]:
        """Yield the numbers of the blocks of `size` bytes that are not zeros only."""
        last = -1
        for start, piece in zip(self._starts, self.pieces, strict=True):
            if piece.path is not None:
                first = max(last + 1, start // size)
                end = -(-(start + piece.length) // size)
                yield from range(first, end)
                last = max(last, end - 1)

    def content(self) -> Iterator[bytes]:
        """Yield all of it."""
        for piece in self.pieces:
            yield from read(piece)

    def write(self, path: Path) -> None:
        """Write it as a new file, zeros as holes."""
        with path.open("xb") as target:
            for piece in self.pieces:
                if piece.path is None:
                    target.seek(piece.length, os.SEEK_CUR)
                else:
                    _copy(piece, target)
            target.truncate(self.size)


def read(piece: Piece) -> Iterator[bytes]:
    """Yield the bytes of a piece."""
    if piece.path is None:
        for start in range(0, piece.length, _PIECE):
            yield bytes(min(_PIECE, piece.length - start))
        return
    with piece.path.open("rb") as source:
        source.seek(piece.offset)
        left = piece.length
        while left:
            content = source.read(min(_PIECE, left))
            if not content:
                raise OSError(f"`{piece.path}` is shorter than it was")
            yield content
            left -= len(content)


def _copy(piece: Piece, target: IO[bytes]) -> None:
    for content in read(piece):
        target.write(content)


def _full_blocks(path: Path) -> Iterator[int]:
    """Yield the numbers of a file's blocks that are not zeros only; holes are not even read."""
    with path.open("rb", buffering=0) as stream:
        descriptor = stream.fileno()
        size = os.fstat(descriptor).st_size
        done = position = 0
        while position < size:
            try:
                start = os.lseek(descriptor, position, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                return
            position = os.lseek(descriptor, start, os.SEEK_HOLE)
            for number in range(max(done, start // BLOCK), -(-position // BLOCK)):
                content = os.pread(descriptor, BLOCK, number * BLOCK)
                if content.count(0) != len(content):
                    yield number
                done = number + 1
