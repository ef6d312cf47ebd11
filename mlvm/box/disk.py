"""A raw disk that boots by BIOS and by UEFI: a GPT, GRUB, and the image's layers as they are, each a partition.

Layers stay the erofs that the lock's digests speak of; what a machine writes goes to the last partition, an empty ext4.
All of it is made here in Python or by tools that the lock pins, so the same parts give the same bytes. Hardly any of it
is ever written: a disk is a recipe, for whoever wraps it.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlvm.box.recipe import Recipe, Scratch
from mlvm.errors import BuildError
from mlvm.image.document import Artifact
from mlvm.image.tools import Tools
from mlvm.image.tree import SOURCE_DATE

SECTOR = 512
MIB = 1 << 20
#: What hypervisors show as the disk's size. No room is taken before it is used.
DISK_SIZE = 64 << 30

_NAMESPACE = uuid.UUID("6d6c766d-0000-4000-8000-000000000001")
_BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
_EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
_LINUX_DATA = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
_ENTRIES = 128
_ENTRY_SIZE = 128
_TABLE_SECTORS = _ENTRIES * _ENTRY_SIZE // SECTOR
_CORE_START = 2 + _TABLE_SECTORS
#: Of the boot record: where GRUB's own code ends and the partition table of old begins.
_CODE_SIZE = 440


@dataclass(frozen=True, kw_only=True, slots=True)
class Partition:
    """A partition by its place, in sectors; `name` is how the initramfs finds it."""

    name: str
    kind: uuid.UUID
    start: int
    sectors: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Boot:
    """What boots: GRUB's boot sector and core for BIOS, and the file system that has the rest."""

    sector: bytes
    core: bytes
    system: bytes


def make_disk(boot: Boot, layers: Sequence[Artifact], *, tools: Tools, scratch: Scratch) -> Recipe:
    """Return the raw disk of `layers`, lowest first. Raises BuildError when they do not fit."""
    partitions = _laid_out(boot, layers)
    record, head, entries, last = _tables(partitions, boot.sector)
    disk = Recipe(scratch)
    for table in (record, head, entries):
        disk.data(table)
    disk.zeros_to(partitions[0].start * SECTOR)
    disk.data(boot.core)
    disk.zeros_to(partitions[1].start * SECTOR)
    system = scratch.path.with_name("efi")
    system.write_bytes(boot.system)
    disk.sparse_file(system)
    for partition, layer in zip(partitions[2:], layers, strict=False):
        disk.zeros_to(partition.start * SECTOR)
        disk.file(layer.path)
    own = partitions[-1]
    disk.zeros_to(own.start * SECTOR)
    disk.sparse_file(_overlay(scratch.path.with_name("overlay"), own.sectors * SECTOR, tools))
    disk.zeros_to(DISK_SIZE - (1 + _TABLE_SECTORS) * SECTOR)
    disk.data(entries)
    disk.data(last)
    return disk


def _overlay(path: Path, size: int, tools: Tools) -> Path:
    """Make the empty file system for what a machine writes: always the same, whenever and by whom it is made."""
    with path.open("xb") as stream:
        stream.truncate(size)
    constant = f"hash_seed={_uuid('overlay hashes')},root_owner=0:0,nodiscard,assume_storage_prezeroed=1"
    tools.run(
        "mke2fs",
        [
            *("-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-J", "size=64", "-L", "mlvm"),
            *("-U", str(_uuid("overlay file system")), "-E", constant, path),
        ],
        # Two names of one thing: which of them counts has changed between versions.
        env={"SOURCE_DATE_EPOCH": str(SOURCE_DATE), "E2FSPROGS_FAKE_TIME": str(SOURCE_DATE)},
    )
    return path


def _laid_out(boot: Boot, layers: Sequence[Artifact]) -> list[Partition]:
    """Return where everything goes: GRUB's core, what UEFI reads, the layers, and the rest for changes."""
    aligned = MIB // SECTOR
    partitions = [
        Partition(name="mlvm-bios", kind=_BIOS_BOOT, start=_CORE_START, sectors=aligned - _CORE_START)
    ]
    start = aligned
    contents = [
        ("mlvm-efi", _EFI_SYSTEM, len(boot.system)),
        *((f"mlvm-{layer.name}", _LINUX_DATA, layer.size) for layer in layers),
    ]
    for name, kind, size in contents:
        sectors = -(-size // MIB) * aligned
        partitions.append(Partition(name=name, kind=kind, start=start, sectors=sectors))
        start += sectors
    rest = DISK_SIZE // SECTOR - aligned - start
    if rest < (1 << 30) // SECTOR:
        raise BuildError(f"the layers take {start * SECTOR >> 30} GiB, and a box has {DISK_SIZE >> 30}")
    partitions.append(Partition(name="mlvm-overlay", kind=_LINUX_DATA, start=start, sectors=rest))
    if len(boot.core) > partitions[0].sectors * SECTOR:
        raise BuildError(f"GRUB takes {len(boot.core)} bytes, more than its partition has")
    return partitions


def _tables(partitions: Sequence[Partition], code: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the boot record, the first header, the entries (they are at both ends), and the last header."""
    sectors = DISK_SIZE // SECTOR
    entries = b"".join(_entry(partition) for partition in partitions).ljust(_TABLE_SECTORS * SECTOR, b"\0")
    # The old table says that all is taken: by one partition of a kind that old programs leave alone.
    protective = struct.pack("<8BII", 0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, min(sectors - 1, 0xFFFFFFFF))
    record = code[:_CODE_SIZE] + bytes(6) + protective + bytes(48) + b"\x55\xaa"
    first = _header(1, sectors - 1, 2, entries)
    return record, first, entries, _header(sectors - 1, 1, sectors - 1 - _TABLE_SECTORS, entries)


def _header(here: int, other: int, table: int, entries: bytes) -> bytes:
    usable = (2 + _TABLE_SECTORS, DISK_SIZE // SECTOR - 2 - _TABLE_SECTORS)
    fields = (here, other, *usable, _uuid("disk").bytes_le, table, _ENTRIES, _ENTRY_SIZE, zlib.crc32(entries))
    head = struct.Struct("<8sIIIIQQQQ16sQIII")
    blank = head.pack(b"EFI PART", 0x10000, head.size, 0, 0, *fields)
    return head.pack(b"EFI PART", 0x10000, head.size, zlib.crc32(blank), 0, *fields).ljust(SECTOR, b"\0")


def _entry(partition: Partition) -> bytes:
    last = partition.start + partition.sectors - 1
    name = partition.name.encode("utf-16-le")
    own = _uuid(partition.name).bytes_le
    return struct.pack("<16s16sQQQ72s", partition.kind.bytes_le, own, partition.start, last, 0, name)


def _uuid(name: str) -> uuid.UUID:
    """Return an id that is the same in every box: disks are told apart by the machine they are in."""
    return uuid.uuid5(_NAMESPACE, name)
