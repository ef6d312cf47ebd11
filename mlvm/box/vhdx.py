"""Wrap a disk as a dynamic VHDX, which Hyper-V reads.

A header twice, a table of regions twice, an empty log, a few facts ("metadata"), the table of blocks, the blocks. All
ids that the format wants unique are made from constants: they tell copies of one file apart, and these are none. The
format: [MS-VHDX] of Microsoft.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence

from mlvm.box.recipe import Recipe

_KIB, _MIB = 1 << 10, 1 << 20
#: Two MiB is what the block table is made of; small blocks waste little around small partitions.
_BLOCK = 2 * _MIB
_SECTOR = 512
_LOG, _METADATA, _TABLE = 1 * _MIB, 2 * _MIB, 3 * _MIB
_PRESENT = 6
_REGION_TABLE = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
_REGION_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_DISK_ID = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
_LOGICAL_SECTOR = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
_PHYSICAL_SECTOR = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556")
_OWN = uuid.UUID("6d6c766d-0000-4000-8000-000000000003")
_REQUIRED, _VIRTUAL_DISK = 4, 2


def wrap_vhdx(disk: Recipe) -> Recipe:
    """Return the VHDX file of a disk."""
    ratio = (1 << 23) * _SECTOR // _BLOCK
    blocks = -(-disk.size // _BLOCK)
    entries = [0] * (blocks + (blocks - 1) // ratio)
    table_size = -(-len(entries) * 8 // _MIB) * _MIB
    start = (_TABLE + table_size) // _MIB
    numbers = list(disk.full_blocks(_BLOCK))
    for index, number in enumerate(numbers):
        # Every so many entries is one for a bitmap that only files with a parent have.
        entries[number + number // ratio] = (start + index * (_BLOCK // _MIB)) << 20 | _PRESENT
    file = Recipe(disk.scratch)
    file.data(b"vhdxfile" + "mlvm".encode("utf-16-le").ljust(512, b"\0"))
    for sequence in (1, 2):
        file.zeros_to(sequence * 64 * _KIB)
        file.data(_header(sequence))
    regions = _regions(table_size)
    for place in (192, 256):
        file.zeros_to(place * _KIB)
        file.data(regions)
    file.zeros_to(_METADATA)
    file.data(_metadata(disk.size))
    file.zeros_to(_TABLE)
    file.data(struct.pack(f"<{len(entries)}Q", *entries))
    file.zeros_to(start * _MIB)
    for number in numbers:
        for piece in disk.part(number * _BLOCK, _BLOCK):
            file.add(piece)
    return file


def _header(sequence: int) -> bytes:
    ids = [uuid.uuid5(_OWN, f"{name} {sequence}").bytes_le for name in ("write", "data")]
    head = struct.pack("<4sIQ16s16s16sHHIQ", b"head", 0, sequence, *ids, bytes(16), 0, 1, _MIB, _LOG)
    return _checked(head.ljust(4 * _KIB, b"\0"))


def _regions(table_size: int) -> bytes:
    rows = [(_REGION_TABLE, _TABLE, table_size), (_REGION_METADATA, _METADATA, _MIB)]
    body = b"".join(struct.pack("<16sQII", kind.bytes_le, place, size, 1) for kind, place, size in rows)
    return _checked((struct.pack("<4sIII", b"regi", 0, len(rows), 0) + body).ljust(64 * _KIB, b"\0"))


def _metadata(size: int) -> bytes:
    items: Sequence[tuple[uuid.UUID, bytes, int]] = (
        (_FILE_PARAMETERS, struct.pack("<II", _BLOCK, 0), _REQUIRED),
        (_DISK_SIZE, struct.pack("<Q", size), _REQUIRED | _VIRTUAL_DISK),
        (_DISK_ID, uuid.uuid5(_OWN, "disk").bytes_le, _REQUIRED | _VIRTUAL_DISK),
        (_LOGICAL_SECTOR, struct.pack("<I", _SECTOR), _REQUIRED | _VIRTUAL_DISK),
        (_PHYSICAL_SECTOR, struct.pack("<I", 4096), _REQUIRED | _VIRTUAL_DISK),
    )
    head = struct.pack("<8sHH20x", b"metadata", 0, len(items))
    rows, values = b"", b""
    for kind, value, flags in items:
        rows += struct.pack("<16sIIII", kind.bytes_le, 64 * _KIB + len(values), len(value), flags, 0)
        values += value
    return (head + rows).ljust(64 * _KIB, b"\0") + values


def _checked(block: bytes) -> bytes:
    """Return a block with its checksum, which is computed over it with zeros in its place."""
    return block[:4] + struct.pack("<I", crc32c(block)) + block[8:]


def crc32c(content: bytes) -> int:
    """Return Castagnoli's checksum; the standard library only has the other one."""
    checksum = 0xFFFFFFFF
    for byte in content:
        checksum = _CRC[(checksum ^ byte) & 0xFF] ^ checksum >> 8
    return checksum ^ 0xFFFFFFFF


def _crc_row(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC = tuple(_crc_row(value) for value in range(256))
