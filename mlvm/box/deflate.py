"""Compress with the lock's own zlib, on all CPUs, the same bytes whatever their number.

The work is cut at places that depend on the content alone, each share goes to a process of the guest's interpreter
(`deflate_program`), and the outcomes are put one behind the other.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlvm import process
from mlvm.box import deflate_program
from mlvm.box.recipe import Piece, Recipe, read
from mlvm.image.bytecode import safe_path

#: Bytes that are deflated by themselves; more would compress no better, since deflate looks back 32 KiB only.
GZIP_BLOCK = 1 << 20
#: Gzip's head: no name, no time, "unknown" operating system.
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST_BLOCK = b"\x03\x00"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deflater:
    """`python` begins a command line of the guest's interpreter, whose home is `home`; `scratch` is an empty folder."""

    python: Sequence[str]
    home: str
    scratch: Path
    workers: int

    def gzip(self, recipe: Recipe, target: Path) -> None:
        """Write `recipe` gzipped to the new file `target`."""
        count = -(-recipe.size // GZIP_BLOCK)
        share = -(-count // self.workers) * GZIP_BLOCK
        jobs = [
            list(recipe.part(start, min(share, recipe.size - start)))
            for start in range(0, recipe.size, share)
        ]
        with ThreadPoolExecutor(len(jobs) + 1) as pool:
            checksum = pool.submit(_crc32, recipe)
            parts = list(pool.map(lambda job: self._run("gzip", GZIP_BLOCK, *job), enumerate(jobs)))
            with target.open("xb") as stream:
                stream.write(_GZIP_HEAD)
                for part in parts:
                    for content in read(Piece(part, 0, part.stat().st_size)):
                        stream.write(content)
                    part.unlink()
                stream.write(_LAST_BLOCK + struct.pack("<II", checksum.result(), recipe.size & 0xFFFFFFFF))

    def grains(self, recipe: Recipe, size: int) -> Iterator[tuple[int, Path, int, int]]:
        """Yield each block of `size` bytes that is not zeros only, compressed: its number, file, offset, length."""
        numbers = list(recipe.full_blocks(size))
        share = -(-len(numbers) // self.workers) or 1
        shares = [numbers[start : start + share] for start in range(0, len(numbers), share)]
        jobs = [[piece for number in some for piece in recipe.part(number * size, size)] for some in shares]
        with ThreadPoolExecutor(len(jobs) or 1) as pool:
            parts = list(pool.map(lambda job: self._run("grains", size, *job), enumerate(jobs)))
        for some, part in zip(shares, parts, strict=True):
            offset = 0
            with part.open("rb") as stream:
                for number in some:
                    stream.seek(offset)
                    (length,) = deflate_program.LENGTH.unpack(stream.read(deflate_program.LENGTH.size))
                    offset += deflate_program.LENGTH.size
                    yield number, part, offset, length
                    offset += length

    def _run(self, mode: str, size: int, index: int, pieces: Sequence[Piece]) -> Path:
        """Run one process over some pieces; return the file with its outcome."""
        part = self.scratch / f"{mode}-{index}"
        lines = [f"{mode} {size}", *map(_line, _cut(pieces))]
        orders = self.scratch / f"{mode}-{index}.orders"
        orders.write_text("\n".join(lines) + "\n")
        safe = safe_path(Path(self.python[-1]).name.removeprefix("python"))
        command = [*self.python, "-s", "-S", "-B", *safe, deflate_program.__file__]
        environment = {"LC_ALL": "C.UTF-8", "PYTHONHOME": self.home, "PYTHONHASHSEED": "0"}
        with (
            orders.open("rb") as stdin,
            part.open("xb") as stdout,
            (part.with_suffix(".said")).open("w+b") as said,
        ):
            with process.spawn(command, env=environment, stdin=stdin, stdout=stdout, stderr=said) as child:
                code = child.wait()
            if code:
                said.seek(0)
                raise process.failed([str(word) for word in command], code, said.read())
        return part


def _cut(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the pieces, none larger than a block."""
    for piece in pieces:
        for start in range(0, piece.length, GZIP_BLOCK):
            yield Piece(piece.path, piece.offset + start, min(GZIP_BLOCK, piece.length - start))


def _line(piece: Piece) -> str:
    """Return a piece as the program reads it; a path in hexadecimal, since it may hold anything."""
    if piece.path is None:
        return f"0 {piece.length}"
    return f"{piece.offset} {piece.length} {bytes(piece.path).hex()}"


def _crc32(recipe: Recipe) -> int:
    checksum = 0
    for content in recipe.content():
        checksum = zlib.crc32(content, checksum)
    return checksum
