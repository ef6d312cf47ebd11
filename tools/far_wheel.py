"""Look into a wheel on an index without downloading it: its METADATA, single members, what its GPU code is for.

Wheels of frameworks are gigabytes, and what `tools/compatibility.py` wants to know of each is a few kilobytes. An index
that serves METADATA beside the wheel (PEP 658) is asked for that; everything else is read by HTTP ranges.
"""

from __future__ import annotations

import io
import os
import struct
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from packaging.metadata import Metadata

#: What begins the GPU code of one source file in a library (CUDA's "fat binary"), with its version and header size.
FATBIN = b"\x50\xed\x55\xba\x01\x00\x10\x00"
#: Of the entries in it: 1 is PTX, which newer GPUs translate, 2 is machine code.
PTX, MACHINE = 1, 2
#: Look at so many source files: all are compiled for the same GPUs, save for a few that need special ones.
ENOUGH = 40
#: Compressed bytes of a library that are worth reading for them.
MOST_READ = 96 << 20

session = requests.Session()
session.headers["Accept-Encoding"] = "identity"


def ask(url: str, **options: Any) -> requests.Response:
    """Return an answer of the index, trying again where it stumbles."""
    for attempt in range(5):
        try:
            answer = session.get(url, timeout=120, **options)
            if answer.status_code < 500:
                return answer
        except requests.RequestException:
            if attempt == 4:
                raise
        time.sleep(2**attempt)
    answer.raise_for_status()
    return answer


def wheels_of(name: str) -> list[Mapping[str, Any]]:
    """Return the files of a project as the index lists them (PEP 691)."""
    index = os.environ.get("UV_DEFAULT_INDEX", "https://pypi.org/simple").rstrip("/")
    answer = ask(f"{index}/{name}/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    answer.raise_for_status()
    files: list[Mapping[str, Any]] = answer.json()["files"]
    return [file for file in files if file["filename"].endswith(".whl") and not file.get("yanked")]


class _Ranges(io.RawIOBase):
    """A file on a server, read piece by piece."""

    def __init__(self, url: str, size: int) -> None:
        self.url, self.size, self.position = url, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self.size - self.position)
        if wanted <= 0:
            return 0
        content = ranged(self.url, self.position, wanted)
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)


def ranged(url: str, start: int, count: int) -> bytes:
    """Return some bytes of a file."""
    answer = ask(url, headers={"Range": f"bytes={start}-{start + count - 1}"})
    if answer.status_code != 206:
        raise RuntimeError(f"the index does not serve parts of files (status {answer.status_code})")
    return answer.content


@dataclass
class FarWheel:
    """One wheel on the index."""

    file: Mapping[str, Any]
    _archive: zipfile.ZipFile | None = field(default=None, init=False)

    @property
    def archive(self) -> zipfile.ZipFile:
        if self._archive is None:
            ranges = io.BufferedReader(_Ranges(self.file["url"], self.file["size"]), 1 << 17)
            self._archive = zipfile.ZipFile(ranges)
        return self._archive

    def metadata(self) -> Metadata:
        """Return its METADATA."""
        answer = ask(self.file["url"] + ".metadata")
        if answer.status_code == 200:
            return Metadata.from_email(answer.content, validate=False)
        name = next(n for n in self.archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Metadata.from_email(self.archive.read(name), validate=False)

    def read(self, ending: str) -> str:
        """Return the text of the member whose name ends so; empty when there is none."""
        found = [name for name in self.archive.namelist() if name.endswith(ending)]
        return self.archive.read(found[0]).decode() if found else ""

    def gpu_code(self, *endings: str) -> tuple[set[int], set[int]]:
        """Return what the first of these libraries with kernels was compiled for: machine code, PTX (86 is 8.6).

        What fewer than half of its source files were compiled for does not count.
        """
        for ending in endings:
            for info in self.archive.infolist():
                if info.filename.endswith(ending) and (files := list(self._fatbins(info))):
                    often = Counter(entry for file in files for entry in set(file))
                    found = {entry for entry, count in often.items() if count * 2 >= len(files)}
                    return {a for kind, a in found if kind == MACHINE}, {
                        a for kind, a in found if kind == PTX
                    }
        return set(), set()

    def _fatbins(self, info: zipfile.ZipInfo) -> Iterator[list[tuple[int, int]]]:
        """Yield kinds and architectures of the GPU code in a library, a source file at a time."""
        kept, seen = b"", 0
        for piece in self._unpacked(info):
            kept += piece
            at = 0
            while seen < ENOUGH:
                at = kept.find(FATBIN, at)
                if at < 0:
                    kept = kept[-16:]
                    break
                size = struct.unpack_from("<Q", kept, at + 8)[0] if len(kept) >= at + 16 else len(kept)
                if len(kept) < at + 16 + size:
                    kept = kept[at:]
                    break
                yield list(_entries_of(kept[at + 16 : at + 16 + size]))
                at += 16 + size
                seen += 1
            if seen >= ENOUGH:
                return

    def _unpacked(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yield a member's bytes, from its beginning, fetching little at a time."""
        url = self.file["url"]
        names = struct.unpack("<HH", ranged(url, info.header_offset, 30)[26:30])
        start = info.header_offset + 30 + sum(names)
        unpack = zlib.decompressobj(-15) if info.compress_type == zipfile.ZIP_DEFLATED else None
        step = 1 << 20
        for offset in range(0, min(info.compress_size, MOST_READ), step):
            piece = ranged(url, start + offset, min(step, info.compress_size - offset))
            yield unpack.decompress(piece) if unpack else piece


def _entries_of(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield kind and architecture of each entry of one fat binary."""
    at = 0
    while at + 32 <= len(content):
        kind, _, header, payload = struct.unpack_from("<HHIQ", content, at)
        yield kind, struct.unpack_from("<I", content, at + 28)[0]
        at += header + payload
