"""Write a FAT16 file system of a few files, which is what UEFI and GRUB read.

mformat and mcopy would do, but write the time of day; these hundred lines write nothing that was not asked for. Files
lie one behind the other, names are of eight and three capitals: there is no case in which more is needed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from mlvm.errors import BuildError

SECTOR = 512
_CLUSTER_SECTORS = 4
_CLUSTER = _CLUSTER_SECTORS * SECTOR
_RESERVED = 1
_ROOT_ENTRIES = 512
_END = 0xFFFF
_FOLDER, _FILE = 0x10, 0x20
#: 2025-01-01, 00:00, in FAT's bits.
_DATE = (2025 - 1980) << 9 | 1 << 5 | 1
_NAME = re.compile(r"[A-Z0-9_-]{1,8}(?:\.[A-Z0-9]{1,3})?")


def make_fat(files: Mapping[str, bytes], *, size: int, serial: int, label: str) -> bytes:
    """Return a file system of `size` bytes that holds `files` by their path. Raises BuildError when they do not fit."""
    sectors = size // SECTOR
    clusters = sectors // _CLUSTER_SECTORS
    table_sectors = -(-(clusters + 2) * 2 // SECTOR)
    data_start = (_RESERVED + 2 * table_sectors) * SECTOR + _ROOT_ENTRIES * 32
    clusters = (size - data_start) // _CLUSTER
    if not 4085 <= clusters < 65525:
        raise BuildError(f"a FAT16 of {size} bytes cannot be: it would have {clusters} clusters")
    writer = _Writer(clusters, [0xFFF8, _END])
    root = writer.folder(_nested(files), own=None, parent=0)
    volume = struct.pack("<11sB10xHHHI", label.encode().ljust(11), 0x08, 0, _DATE, 0, 0)
    table = struct.pack(f"<{len(writer.table)}H", *writer.table).ljust(table_sectors * SECTOR, b"\0")
    boot = struct.pack(
        "<3s8sHBHBHHBHHHIIBBBI11s8s",
        b"\xeb\x3c\x90", b"MSWIN4.1", SECTOR, _CLUSTER_SECTORS, _RESERVED, 2, _ROOT_ENTRIES,
        sectors if sectors < 65536 else 0, 0xF8, table_sectors, 32, 64, 0,
        0 if sectors < 65536 else sectors, 0x80, 0, 0x29, serial, label.encode().ljust(11), b"FAT16   ",
    )  # fmt: skip
    head = boot.ljust(SECTOR - 2, b"\0") + b"\x55\xaa" + table + table
    entries = (volume + root).ljust(_ROOT_ENTRIES * 32, b"\0")
    return (head + entries + b"".join(writer.data)).ljust(size, b"\0")


class _Writer:
    """Gives out clusters in order; `table` says for each which one follows."""

    def __init__(self, clusters: int, table: list[int]) -> None:
        self.clusters = clusters
        self.table = table
        self.data: list[bytes] = []

    def put(self, content: bytes) -> int:
        """Add content in clusters of its own; return the first."""
        first, count = self.reserve(len(content))
        self.data[first - 2] = content.ljust(count * _CLUSTER, b"\0")
        return first

    def reserve(self, size: int) -> tuple[int, int]:
        """Take the clusters for `size` bytes; return the first and their number."""
        first, count = len(self.table), max(1, -(-size // _CLUSTER))
        if first + count - 2 > self.clusters:
            raise BuildError("guest kernel and initramfs do not fit into the box's boot partition")
        self.table += [*range(first + 1, first + count), _END]
        self.data += [b""] * count
        return first, count

    def folder(self, content: Mapping[str, object], *, own: int | None, parent: int) -> bytes:
        """Return a folder's entries, after adding all that is below it."""
        entries = b"" if own is None else _entry(".", _FOLDER, own, 0) + _entry("..", _FOLDER, parent, 0)
        for name, value in sorted(content.items()):
            if isinstance(value, bytes):
                entries += _entry(name, _FILE, self.put(value) if value else 0, len(value))
            else:
                assert isinstance(value, dict)
                first, count = self.reserve(32 * (len(value) + 2))
                inner = self.folder(value, own=first, parent=own or 0)
                self.data[first - 2] = inner.ljust(count * _CLUSTER, b"\0")
                entries += _entry(name, _FOLDER, first, 0)
        return entries


def _nested(files: Mapping[str, bytes]) -> dict[str, object]:
    """Return paths as folders in folders."""
    root: dict[str, object] = {}
    for path, content in files.items():
        *folders, name = path.split("/")
        where = root
        for folder in folders:
            inner = where.setdefault(folder, {})
            assert isinstance(inner, dict)
            where = inner
        where[name] = content
    return root


def _entry(name: str, kind: int, first: int, size: int) -> bytes:
    return struct.pack("<11sB10xHHHI", _short_name(name), kind, 0, _DATE, first, size)


def _short_name(name: str) -> bytes:
    if name in {".", ".."}:
        return name.encode().ljust(11)
    if not _NAME.fullmatch(name):
        raise BuildError(f"`{name}` is no name of eight and three capitals")
    stem, _, ending = name.partition(".")
    return stem.encode().ljust(8) + ending.encode().ljust(3)
