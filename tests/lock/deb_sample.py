"""Small Debian packages, made byte by byte."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Put:
    """An entry that is not simply a file with mode 0644."""

    data: bytes = b""
    mode: int = 0o644
    type: bytes = tarfile.REGTYPE
    link: str = ""
    uid: int = 0
    gid: int = 0
    mtime: int = 1_600_000_000


def folder(mode: int = 0o755) -> Put:
    return Put(mode=mode, type=tarfile.DIRTYPE)


def symlink(target: str) -> Put:
    return Put(mode=0o777, type=tarfile.SYMTYPE, link=target)


def tar(entries: Mapping[str, bytes | Put], xattrs: Mapping[str, bytes] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, entry in entries.items():
            put = entry if isinstance(entry, Put) else Put(entry)
            info = tarfile.TarInfo(f"./{path}")
            info.size, info.mode, info.type, info.linkname = len(put.data), put.mode, put.type, put.link
            info.uid, info.gid, info.mtime = put.uid, put.gid, put.mtime
            for name, value in (xattrs or {}).items():
                info.pax_headers[f"SCHILY.xattr.{name}"] = value.decode("utf-8", "surrogateescape")
            archive.addfile(info, io.BytesIO(put.data))
    return stream.getvalue()


def ar(members: Mapping[str, bytes]) -> bytes:
    whole = b"!<arch>\n"
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        whole += header.encode() + content + b"\n" * (len(content) % 2)
    return whole


COMPRESSIONS = {"": lambda data: data, ".gz": gzip.compress, ".xz": lzma.compress}


def deb(
    name: str = "sample",
    files: Mapping[str, bytes | Put] | None = None,
    *,
    scripts: Mapping[str, str] | None = None,
    control: Mapping[str, bytes] | None = None,
    fields: str = "",
    compression: str = ".xz",
    xattrs: Mapping[str, bytes] | None = None,
) -> bytes:
    """Return the bytes of a package."""
    stanza = f"Package: {name}\nVersion: 1.0\nArchitecture: amd64\n{fields}"
    members: dict[str, bytes | Put] = {"control": stanza.encode(), **(control or {})}
    members |= {script: Put(text.encode(), mode=0o755) for script, text in (scripts or {}).items()}
    pack = COMPRESSIONS[compression]
    return ar(
        {
            "debian-binary": b"2.0\n",
            f"control.tar{compression}": pack(tar(members)),
            f"data.tar{compression}": pack(tar(files or {}, xattrs)),
        }
    )


def written(folder: Path, content: bytes, name: str = "sample.deb") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
