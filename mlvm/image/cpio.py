"""Write a cpio archive in the "newc" form, which the guest kernel unpacks as its first root.

Entries are sorted, numbered from 1 and dated alike; nothing is compressed, since compressors differ between versions
and the archive is small.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from mlvm.image.tree import SOURCE_DATE

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_BLOCK = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class CpioEntry:
    """An entry: `mode` with its type, `device` (major, minor) of a device node."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder() -> CpioEntry:
    """Return a folder."""
    return CpioEntry(mode=stat.S_IFDIR | 0o755)


def link(target: str) -> CpioEntry:
    """Return a symbolic link."""
    return CpioEntry(mode=stat.S_IFLNK | 0o777, content=target.encode())


def file(content: bytes, *, mode: int = 0o644) -> CpioEntry:
    """Return a regular file."""
    return CpioEntry(mode=stat.S_IFREG | mode, content=content)


def write_cpio(entries: Mapping[str, CpioEntry], stream: IO[bytes]) -> None:
    """Write `entries` by path, in order."""
    written = 0
    for number, path in enumerate(sorted(entries), start=1):
        written += stream.write(_packed(path, entries[path], number=number, mtime=SOURCE_DATE))
    written += stream.write(_packed(_TRAILER, CpioEntry(mode=0), number=0, mtime=0))
    stream.write(bytes(-written % _BLOCK))


def _packed(path: str, entry: CpioEntry, *, number: int, mtime: int) -> bytes:
    name = path.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, 1, mtime, len(entry.content), 0, 0, *entry.device, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % value for value in fields) + name
    return _padded(head) + _padded(entry.content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)
