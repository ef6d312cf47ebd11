"""Unpack a box of a stranger's: nothing leaves the folder, nothing is larger than allowed, nothing is special.

A box is a tar of a handful of plain files. Whatever else a tar can say (links, devices, sparse files, names that climb,
names said twice) no box needs, so all of it is refused, before a byte of that member is written. Zeros become holes: a
disk of mostly nothing takes no room, and what it may unpack to is bounded all the same.
"""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mlvm import files
from mlvm.errors import BoxError

GIB = 1 << 30
_PIECE = 1 << 20
_LONGEST_NAME = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a box may unpack to. `room` bytes must be left on the disk."""

    size: int = 256 * GIB
    members: int = 256
    room: int = GIB


def unpack(box: Path, target: Path, *, limits: Limits | None = None) -> None:
    """Unpack `box` into the new folder `target`, whole or not at all. Raises BoxError that names the member."""
    limits = limits or Limits()
    if target.exists():
        raise BoxError(f"`{target}` is there already", hint="choose another folder with `--output`")
    with files.folder_whole(target) as folder:
        try:
            with box.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
                _unpack_all(tar, folder, limits)
        except (
            tarfile.TarError,
            lzma.LZMAError,
            zlib.error,
            EOFError,
            UnicodeError,
            ValueError,
            OverflowError,
        ) as broken:
            raise BoxError(
                f"`{box}` cannot be unpacked: {broken}", hint="get it again, and compare its digest"
            ) from None


def _unpack_all(tar: tarfile.TarFile, folder: Path, limits: Limits) -> None:
    seen: set[str] = set()
    total = 0
    for count, member in enumerate(tar, start=1):
        if count > limits.members:
            raise BoxError(f"the box has more than {limits.members} members")
        name = checked_name(member.name)
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise BoxError(f"`{member.name}` in the box is no plain file", details=_kind(member))
        if name.casefold() in seen:
            raise BoxError(f"`{name}` is in the box twice")
        seen.add(name.casefold())
        total += member.size
        if total > limits.size:
            raise BoxError(
                f"the box unpacks to more than {limits.size >> 20} MiB: `{name}` alone has {member.size >> 20}"
            )
        content = tar.extractfile(member)
        if content is None:
            raise BoxError(f"`{name}` in the box has no content")
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        _write(_pieces(content, member), place, member.size, limits)
    if not seen:
        raise BoxError("the box is empty")


def checked_name(name: str) -> str:
    """Return a member's name, made plain (`./a//b` is `a/b`). Raises BoxError when it leaves its folder."""
    path = PurePosixPath(name)
    bad = (
        path.is_absolute()
        or ".." in path.parts
        or len(name) > _LONGEST_NAME
        or any(not letter.isprintable() or letter in "\\:" for letter in name)
    )
    if bad:
        raise BoxError(
            f"{name!r} is no name for a file in a box", details="it could be written somewhere else"
        )
    return str(path)


def _pieces(content: IO[bytes], member: tarfile.TarInfo) -> Iterator[bytes]:
    left = member.size
    while left:
        piece = content.read(min(_PIECE, left))
        if not piece:
            raise BoxError(f"`{member.name}` in the box is cut short")
        left -= len(piece)
        yield piece


def _write(pieces: Iterator[bytes], place: Path, size: int, limits: Limits) -> None:
    """Write a file, its zeros as holes."""
    with place.open("xb") as stream:
        for piece in pieces:
            if piece.count(0) == len(piece):
                stream.seek(len(piece), os.SEEK_CUR)
                continue
            if shutil.disk_usage(place.parent).free < limits.room:
                raise BoxError(
                    f"there is no room to unpack `{place.name}`", hint="mlvm prune, or `--output` elsewhere"
                )
            stream.write(piece)
        stream.truncate(size)


def _kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return f"it is a link to `{member.linkname}`"
    return "it is a sparse file" if member.issparse() else "it is a device or the like"
