"""Run by the guest's own interpreter on the host: pieces of files in, deflate out.

What a compressor writes depends on its version, so a box is compressed by the one that the lock pins. Standard input
is text: `MODE SIZE`, then one piece a line, `OFFSET LENGTH PATH` (in hexadecimal), or `0 LENGTH` for zeros.

`gzip`: the pieces are cut into blocks of SIZE bytes, each deflated by itself and ended so that the next can follow; all
are written one behind the other, which is how many processes can make one stream.
`grains`: each piece of SIZE bytes is one zlib stream; its length and its bytes are written.
"""

from __future__ import annotations

import struct
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:  # a bare interpreter has no typing
    from collections.abc import Iterator
    from typing import IO

LENGTH = struct.Struct("<I")
LEVEL = 6


def pieces() -> Iterator[bytes]:
    """Yield the bytes of each line's piece."""
    opened: dict[bytes, IO[bytes]] = {}
    for line in sys.stdin.buffer:
        offset, length, *path = line.rstrip(b"\n").split(b" ", 2)
        if not path:
            yield bytes(int(length))
            continue
        if path[0] not in opened:
            opened[path[0]] = open(bytes.fromhex(path[0].decode()), "rb", buffering=0)  # noqa: PTH123, SIM115  (no pathlib)
        stream = opened[path[0]]
        stream.seek(int(offset))
        content = stream.read(int(length))
        if len(content) != int(length):
            raise SystemExit("a file is shorter than it was")
        yield content


def deflate(size: int) -> None:
    """Deflate blocks, each to a byte's end."""
    write = sys.stdout.buffer.write
    block = bytearray()
    for content in pieces():
        block += content
        while len(block) >= size:
            write(_deflated(block[:size]))
            del block[:size]
    if block:
        write(_deflated(block))


def _deflated(content: bytes | bytearray) -> bytes:
    coder = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return coder.compress(content) + coder.flush(zlib.Z_FULL_FLUSH)


def grains(size: int) -> None:
    """Compress pieces, gathered to `size` bytes."""
    write = sys.stdout.buffer.write
    block = bytearray()
    for content in pieces():
        block += content
        if len(block) == size:
            packed = zlib.compress(bytes(block), LEVEL)
            write(LENGTH.pack(len(packed)) + packed)
            block.clear()


def main() -> None:
    """Do what the first line says."""
    mode, size = sys.stdin.buffer.readline().split()
    if mode == b"gzip":
        deflate(int(size))
    else:
        grains(int(size))


if __name__ == "__main__":
    main()
