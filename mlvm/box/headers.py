"""What a disk image of a stranger's says of itself, read here and not by a program that might act on it.

An image can name other files: a backing file, a data file, extents. Whoever opens it with QEMU then hands over those
files too, /etc/shadow for one. So images are looked at beforehand, and each that is not the whole disk in one file is
refused; and QEMU is always told the format, since a raw disk can begin like anything.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import UUID

from mlvm.errors import BoxError

#: The largest disk that is taken: more than any hypervisor's default, less than what only an attack would say.
LARGEST = 16 << 40
_SECTOR = 512
_QCOW2_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_QCOW2_EXTERNAL_DATA = 1 << 2
_QCOW2_KNOWN = 0b11111
_VMDK_HEADER = struct.Struct("<4sIIQQQQIQQQB")
_VHDX_HAS_PARENT = 2
_VHDX_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_VHDX_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_VHDX_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskFacts:
    """A disk image: its format as QEMU calls it, and the size of the disk within."""

    format: str
    size: int


def look_at(path: Path, *, wanted: str) -> DiskFacts:
    """Return the facts of a disk image that is to be of format `wanted`. Raises BoxError for what may not be opened."""
    readers: dict[str, Callable[[IO[bytes], Path], int]] = {
        "qcow2": _qcow2,
        "vmdk": _vmdk,
        "vhdx": _vhdx,
        "vpc": _vhd,
        "raw": _raw,
    }
    if wanted not in readers:
        raise BoxError(f"disks of format `{wanted}` are not taken", hint=f"formats: {', '.join(readers)}")
    try:
        with path.open("rb") as stream:
            size = readers[wanted](stream, path)
    except (struct.error, UnicodeError, ValueError) as broken:
        raise BoxError(f"`{path.name}` is no {wanted} disk: {broken}") from None
    if not 0 < size <= LARGEST or size % _SECTOR:
        raise BoxError(f"`{path.name}` says that its disk has {size} bytes")
    return DiskFacts(format=wanted, size=size)


def _read(stream: IO[bytes], offset: int, size: int) -> bytes:
    # File systems differ in how far one may go before that is an error of theirs.
    if offset + size > stream.seek(0, os.SEEK_END):
        raise ValueError("it is cut short")
    stream.seek(offset)
    content = stream.read(size)
    if len(content) != size:
        raise ValueError("it is cut short")
    return content


def _qcow2(stream: IO[bytes], path: Path) -> int:
    fields = _QCOW2_HEADER.unpack(_read(stream, 0, _QCOW2_HEADER.size))
    magic, version, backing, backing_size, _, size, encryption = fields[:7]
    snapshots = fields[11]
    if magic != b"QFI\xfb" or version not in {2, 3}:
        raise ValueError("its first bytes are others")
    if backing or backing_size:
        raise _refused(path, "it names a backing file, whose content would be read with it")
    if encryption:
        raise _refused(path, "it is encrypted")
    if version == 3:
        (incompatible,) = struct.unpack(">Q", _read(stream, 72, 8))
        if incompatible & _QCOW2_EXTERNAL_DATA:
            raise _refused(path, "its data are in another file")
        if incompatible & ~_QCOW2_KNOWN:
            raise _refused(path, f"it has features that nobody knows ({incompatible:#x})")
    if snapshots:
        raise _refused(path, "it holds snapshots of somebody's")
    return int(size)


def _vmdk(stream: IO[bytes], path: Path) -> int:
    head = _read(stream, 0, _VMDK_HEADER.size)
    magic, version, _, sectors, _, place, length = _VMDK_HEADER.unpack(head)[:7]
    if magic != b"KDMV" or version not in {1, 2, 3}:
        raise _refused(path, "it is a description of other files, or no sparse VMDK")
    if not place or not 0 < length <= 2048:
        raise ValueError("it has no descriptor")
    text = _read(stream, place * _SECTOR, length * _SECTOR).split(b"\0", 1)[0].decode("utf-8")
    _check_descriptor(text, path)
    return int(sectors) * _SECTOR


def _check_descriptor(text: str, path: Path) -> None:
    extents = re.findall(r"^\s*(?:RW|RDONLY|NOACCESS)\s.*$", text, re.MULTILINE)
    if len(extents) != 1 or not re.fullmatch(r'\s*RW\s+\d+\s+SPARSE\s+"[^"/\\]*"\s*(?:0\s*)?', extents[0]):
        raise _refused(path, "it names other files", extents=extents)
    parent = re.findall(r"^\s*parentCID\s*=\s*(\S+)", text, re.MULTILINE | re.IGNORECASE)
    if any(value.strip('"').lower() != "ffffffff" for value in parent) or "parentFileNameHint" in text:
        raise _refused(path, "it has a parent, whose content would be read with it")
    kind = re.findall(r'^\s*createType\s*=\s*"([^"]*)"', text, re.MULTILINE)
    if kind not in (["monolithicSparse"], ["streamOptimized"]):
        raise _refused(path, f"it is of type {' and '.join(kind) or 'none'}, and the disk may be elsewhere")


def _vhdx(stream: IO[bytes], path: Path) -> int:
    if _read(stream, 0, 8) != b"vhdxfile":
        raise ValueError("its first bytes are others")
    values: dict[bytes, bytes] = {}
    for copy in (192 << 10, 256 << 10):
        table = _read(stream, copy, 64 << 10)
        magic, _, count = struct.unpack_from("<4sII", table)
        if magic != b"regi" or count > 2047:
            raise ValueError("it has no table of regions")
        for index in range(count):
            kind, place, _, _ = struct.unpack_from("<16sQII", table, 16 + 32 * index)
            if kind == _VHDX_METADATA:
                values.update(_vhdx_values(stream, place, path))
    if _VHDX_PARAMETERS not in values or _VHDX_SIZE not in values:
        raise ValueError("it does not say how large it is")
    return int(struct.unpack("<Q", values[_VHDX_SIZE])[0])


def _vhdx_values(stream: IO[bytes], place: int, path: Path) -> dict[bytes, bytes]:
    head = _read(stream, place, 64 << 10)
    magic, count = struct.unpack_from("<8s2xH", head)
    if magic != b"metadata" or count > 1023:
        raise ValueError("it has no metadata")
    values = {}
    for index in range(count):
        kind, offset, length = struct.unpack_from("<16sII", head, 32 + 32 * index)
        if kind in {_VHDX_PARAMETERS, _VHDX_SIZE}:
            values[kind] = _read(stream, place + offset, min(length, 64))
            if kind == _VHDX_PARAMETERS and struct.unpack_from("<II", values[kind])[1] & _VHDX_HAS_PARENT:
                raise _refused(path, "it has a parent, whose content would be read with it")
    return values


def _vhd(stream: IO[bytes], path: Path) -> int:
    stream.seek(0, 2)
    foot = _read(stream, max(0, stream.tell() - _SECTOR), _SECTOR)
    if foot[:8] != b"conectix":
        raise ValueError("its last bytes are others")
    size, kind = struct.unpack_from(">Q", foot, 48)[0], struct.unpack_from(">I", foot, 60)[0]
    if kind not in {2, 3}:
        raise _refused(path, "it is a difference to another disk")
    # QEMU looks at the beginning first: both must say the same.
    head = _read(stream, 0, 64)
    if head[:8] == b"conectix" and struct.unpack_from(">I", head, 60)[0] not in {2, 3}:
        raise _refused(path, "it is a difference to another disk")
    return int(size)


def _raw(stream: IO[bytes], path: Path) -> int:
    stream.seek(0, 2)
    return stream.tell()


def _refused(path: Path, why: str, *, extents: list[str] | None = None) -> BoxError:
    return BoxError(f"`{path.name}` is not taken: {why}", details="\n".join(extents or [])[:500])
