"""Read a wheel: which of its members goes where in a virtual environment, and what its commands are.

A wheel is a zip from the internet. Its digest says that it is the one the lock names, not that it is harmless: every
name in it is checked, and anything that would land outside the environment, twice, or not as a plain file is refused.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlvm.errors import BuildError

PIECE = 1 << 20
_IDENTIFIERS = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_ENTRY_POINT = re.compile(rf"({_IDENTIFIERS})\s*:\s*({_IDENTIFIERS})\s*(?:\[.*\])?")
_COMMAND = re.compile(r"[A-Za-z0-9_.+-]+")
#: What zipfile raises for bytes that are not a proper zip.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a wheel; its bytes are unpacked when they are read."""

    wheel: Wheel
    info: zipfile.ZipInfo

    @property
    def size(self) -> int:
        """Number of bytes, as the zip's directory says."""
        return self.info.file_size

    @property
    def executable(self) -> bool:
        """Whether the archive marks it so."""
        return bool((self.info.external_attr >> 16) & 0o111)

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes. Raises BuildError when they do not have their checksum."""
        try:
            with self.wheel.archive.open(self.info) as stream:
                while piece := stream.read(PIECE):
                    yield piece
        except _ZIP_ERRORS as broken:
            raise self.wheel.complaint(f"`{self.info.filename}` cannot be read: {broken}") from None


class Wheel:
    """An opened wheel. Raises BuildError when it is none; close it after the last member was read."""

    def __init__(self, path: Path, *, name: str) -> None:
        self.name = name
        try:
            self.archive = zipfile.ZipFile(path)
        except _ZIP_ERRORS as broken:
            raise self.complaint(f"it is no zip archive: {broken}") from None
        try:
            self.members = self._members()
            self.dist_info = self._folder(".dist-info") or ""
            self.data = self._folder(".data")
            self._check_dist_info()
        except BuildError:
            self.archive.close()
            raise

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()

    def complaint(self, what: str) -> BuildError:
        """Return the error for something wrong with this wheel."""
        return BuildError(f"wheel `{self.name}`: {what}")

    def read(self, name: str) -> bytes:
        """Return a member of the `.dist-info` folder. Raises BuildError when it is not there."""
        member = self.members.get(f"{self.dist_info}/{name}")
        if member is None:
            raise self.complaint(f"it has no `{self.dist_info}/{name}`")
        return b"".join(member.pieces())

    def has(self, name: str) -> bool:
        """Tell whether the `.dist-info` folder has a member."""
        return f"{self.dist_info}/{name}" in self.members

    def commands(self) -> dict[str, str]:
        """Return the commands it brings: name -> "module:function"."""
        if not self.has("entry_points.txt"):
            return {}
        parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        try:
            parser.read_string(self.read("entry_points.txt").decode())
        except (configparser.Error, UnicodeDecodeError) as broken:
            raise self.complaint(f"its entry points cannot be read: {broken}") from None
        found: dict[str, str] = {}
        for section in ("console_scripts", "gui_scripts"):
            for command, target in parser.items(section) if parser.has_section(section) else ():
                match = _ENTRY_POINT.fullmatch(target.strip())
                if not match or not _COMMAND.fullmatch(command) or command in {".", ".."}:
                    raise self.complaint(f"command `{command} = {target}` cannot be made")
                found[command] = f"{match[1]}:{match[2]}"
        return found

    def recorded(self) -> list[list[str]]:
        """Return the rows of RECORD."""
        try:
            return [row for row in csv.reader(io.StringIO(self.read("RECORD").decode())) if len(row) == 3]
        except (csv.Error, UnicodeDecodeError) as broken:
            raise self.complaint(f"its RECORD cannot be read: {broken}") from None

    def _members(self) -> dict[str, Member]:
        members: dict[str, Member] = {}
        for info in self.archive.infolist():
            if info.is_dir():
                continue
            name = info.orig_filename
            kind = (info.external_attr >> 16) & 0o170000
            if kind not in {0, 0o100000}:
                raise self.complaint(f"`{name}` is not a plain file")
            if not _stays_inside(name):
                raise self.complaint(f"`{name!a}` would be written outside of the environment")
            if name in members:
                raise self.complaint(f"`{name}` is in it twice")
            members[name] = Member(self, info)
        return members

    def _folder(self, suffix: str) -> str | None:
        """Return the one top folder whose name ends so. Raises BuildError when there are more."""
        found = {name.split("/")[0] for name in self.members if name.split("/")[0].endswith(suffix)}
        if len(found) > 1:
            raise self.complaint(f"it has {len(found)} `{suffix}` folders")
        return found.pop() if found else None

    def _check_dist_info(self) -> None:
        if not self.dist_info:
            raise self.complaint("it has no `.dist-info` folder")
        if not self.has("RECORD"):
            raise self.complaint(f"it has no `{self.dist_info}/RECORD`")


def _stays_inside(name: str) -> bool:
    """Tell whether a member's name is a plain relative path."""
    parts = name.split("/")
    return not ({"", ".", ".."} & set(parts) or "\\" in name or not name.isprintable())


def record_digest(content: bytes) -> str:
    """Return a digest as RECORD writes it."""
    encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return f"sha256={encoded.decode()}"
