"""Wrap a disk as VMDK: `streamOptimized` for an OVF, `monolithicSparse` for VMware itself.

Both are VMware's sparse extents: a header, a descriptor in text, and grains of 64 KiB behind two levels of tables. In
the first each grain is compressed and the tables come behind what they describe, so that it can be written to a pipe;
in the second all lies at fixed places. The format: "Virtual Disk Format 5.0" of VMware.
"""

from __future__ import annotations

import struct

from mlvm.box.deflate import Deflater
from mlvm.box.recipe import Piece, Recipe

_SECTOR = 512
_GRAIN = 128
_GRAIN_BYTES = _GRAIN * _SECTOR
_TABLE_ENTRIES = 512
_TABLE_SECTORS = _TABLE_ENTRIES * 4 // _SECTOR
_DESCRIPTOR_SECTORS = 20
_HEADER = struct.Struct("<4sIIQQQQIQQQBccccH433x")
_END_OF_STREAM, _TABLE, _DIRECTORY, _FOOTER = range(4)
_AT_END = 0xFFFFFFFFFFFFFFFF
#: New lines are checked, a second table is there; grains are compressed, and markers tell what comes.
_PLAIN_FLAGS, _STREAM_FLAGS = 0x3, 0x30001


def wrap_sparse(disk: Recipe, *, name: str) -> Recipe:
    """Return the monolithicSparse file of a disk, which must be called `name`; with both of its tables."""
    sectors, numbers = disk.size // _SECTOR, list(disk.full_blocks(_GRAIN_BYTES))
    tables = -(-sectors // (_GRAIN * _TABLE_ENTRIES))
    directory_sectors = -(-tables * 4 // _SECTOR)
    second = 1 + _DESCRIPTOR_SECTORS
    first = second + directory_sectors + tables * _TABLE_SECTORS
    overhead = first + directory_sectors + tables * _TABLE_SECTORS
    overhead += -overhead % _GRAIN
    file = Recipe(disk.scratch)
    file.data(_header(sectors, second=second, first=first, overhead=overhead, compressed=False))
    file.data(_descriptor(sectors, "monolithicSparse", name))
    file.zeros_to(second * _SECTOR)
    entries = [0] * (tables * _TABLE_ENTRIES)
    for index, number in enumerate(numbers):
        entries[number] = overhead + index * _GRAIN
    content = struct.pack(f"<{len(entries)}I", *entries)
    for start in (second, first):
        behind = start + directory_sectors
        directory = [behind + index * _TABLE_SECTORS for index in range(tables)]
        file.zeros_to(start * _SECTOR)
        file.data(struct.pack(f"<{tables}I", *directory))
        file.align(_SECTOR)
        file.data(content)
    file.zeros_to(overhead * _SECTOR)
    for number in numbers:
        for piece in disk.part(number * _GRAIN_BYTES, _GRAIN_BYTES):
            file.add(piece)
    return file


def wrap_stream(disk: Recipe, *, name: str, deflater: Deflater) -> Recipe:
    """Return the streamOptimized file of a disk, which is to be called `name`."""
    sectors = disk.size // _SECTOR
    tables = -(-sectors // (_GRAIN * _TABLE_ENTRIES))
    overhead = 1 + _DESCRIPTOR_SECTORS
    overhead += -overhead % _GRAIN
    file = Recipe(disk.scratch)
    file.data(_header(sectors, second=0, first=_AT_END, overhead=overhead, compressed=True))
    file.data(_descriptor(sectors, "streamOptimized", name))
    file.zeros_to(overhead * _SECTOR)
    directory = [0] * tables
    entries: list[int] = []
    current = -1
    for number, path, offset, length in deflater.grains(disk, _GRAIN_BYTES):
        if number // _TABLE_ENTRIES != current:
            _end_table(file, directory, current, entries)
            current, entries = number // _TABLE_ENTRIES, [0] * _TABLE_ENTRIES
        entries[number % _TABLE_ENTRIES] = file.size // _SECTOR
        file.data(struct.pack("<QI", number * _GRAIN, length))
        file.add(Piece(path, offset, length))
        file.align(_SECTOR)
    _end_table(file, directory, current, entries)
    size = -(-tables * 4 // _SECTOR)
    file.data(_marker(size, _DIRECTORY))
    start = file.size // _SECTOR
    file.data(struct.pack(f"<{tables}I", *directory))
    file.align(_SECTOR)
    file.data(_marker(1, _FOOTER))
    file.data(_header(sectors, second=0, first=start, overhead=overhead, compressed=True))
    file.data(_marker(0, _END_OF_STREAM))
    return file


def _end_table(file: Recipe, directory: list[int], number: int, entries: list[int]) -> None:
    """Write the table of the grains before, if there were any."""
    if entries:
        file.data(_marker(_TABLE_SECTORS, _TABLE))
        directory[number] = file.size // _SECTOR
        file.data(struct.pack(f"<{_TABLE_ENTRIES}I", *entries))


def _marker(sectors: int, kind: int) -> bytes:
    return struct.pack("<QII", sectors, 0, kind).ljust(_SECTOR, b"\0")


def _header(sectors: int, *, second: int, first: int, overhead: int, compressed: bool) -> bytes:
    return _HEADER.pack(
        *(b"KDMV", 3 if compressed else 1, _STREAM_FLAGS if compressed else _PLAIN_FLAGS),
        *(sectors, _GRAIN, 1, _DESCRIPTOR_SECTORS, _TABLE_ENTRIES),
        *(second, first, overhead, 0, b"\n", b" ", b"\r", b"\n", 1 if compressed else 0),
    )


def _descriptor(sectors: int, kind: str, name: str) -> bytes:
    cylinders = min(sectors // (255 * 63), 65535)
    text = f"""\
# Disk DescriptorFile
version=1
CID=6d6c766d
parentCID=ffffffff
createType="{kind}"

# Extent description
RW {sectors} SPARSE "{name}"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "255"
ddb.geometry.sectors = "63"
ddb.virtualHWVersion = "14"
"""
    return text.encode().ljust(_DESCRIPTOR_SECTORS * _SECTOR, b"\0")
