"""Read a .deb in pure Python: its control fields, scripts and files.

A .deb is an ar archive of two tar files (deb(5)). Reading it ourselves needs no dpkg, no root and no chroot, and works
the same for any architecture. Compression is what Debian uses: xz, and zst or gz in packages from elsewhere.
"""

from __future__ import annotations

import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlvm.errors import BuildError

SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "config", "triggers")
_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_FIELD = re.compile(r"^([A-Za-z0-9-]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of a package's data: `path` without leading `./` or trailing `/`; times in seconds."""

    path: str
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    link: str
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Control:
    """The control part: the `control` file's text and fields, and the other members (scripts, conffiles ...)."""

    text: str
    fields: Mapping[str, str]
    members: Mapping[str, bytes]

    def scripts(self) -> dict[str, str]:
        """Return the maintainer scripts that are there, as text."""
        return {name: self.members[name].decode(errors="replace") for name in SCRIPTS if name in self.members}

    def conffiles(self) -> list[str]:
        """Return the absolute paths of the package's configuration files."""
        lines = self.members.get("conffiles", b"").decode().splitlines()
        return [line for line in lines if line.startswith("/")]


def read_control(path: Path) -> Control:
    """Read only the control part of a .deb. Raises BuildError when it is not one."""
    with _explaining(path):
        members: dict[str, bytes] = {}
        with _tar(path, "control.tar") as archive:
            for member in archive:
                if member.isreg() and (stream := archive.extractfile(member)):
                    members[_clean(member.name)] = stream.read()
        text = members.pop("control").decode()
        return Control(text=text.rstrip("\n"), fields=dict(_FIELD.findall(text)), members=members)


def read_data(path: Path) -> Iterator[Entry]:
    """Yield the files, folders and links of a .deb in its own order. Raises BuildError when it is not one."""
    with _explaining(path), _tar(path, "data.tar") as archive:
        for member in archive:
            name = _clean(member.name)
            if not name:
                continue
            if ".." in name.split("/"):
                raise BuildError(f"`{path.name}` has an entry outside the file system: {member.name}")
            stream = archive.extractfile(member) if member.isreg() else None
            yield Entry(
                path=name,
                kind=tarfile.REGTYPE if member.isreg() else member.type,
                mode=member.mode & 0o7777,
                uid=member.uid,
                gid=member.gid,
                mtime=int(member.mtime),
                link=member.linkname,
                content=stream.read() if stream else b"",
            )


class _explaining:  # noqa: N801  (used like a function)
    """Turn the many ways in which bytes are no .deb into one BuildError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        broken = (
            tarfile.TarError,
            lzma.LZMAError,
            zlib.error,
            OSError,
            EOFError,
            KeyError,
            ValueError,
            IndexError,
        )
        if isinstance(error, broken):
            raise BuildError(
                f"`{self.path.name}` is not a Debian package that can be read: {error}",
                details=str(self.path),
                hint="mlvm prune, then build again to download it anew",
            ) from None


def _clean(name: str) -> str:
    return name.removeprefix("./").strip("/") if name != "." else ""


def _tar(path: Path, wanted: str) -> tarfile.TarFile:
    for name, content in _members(path):
        if name.startswith(wanted):
            return tarfile.open(fileobj=io.BytesIO(_decompress(name, content)), mode="r:")
    raise ValueError(f"it has no {wanted}")


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as stream:
        if stream.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise ValueError("it is no ar archive")
        while len(header := stream.read(_AR_HEADER)) == _AR_HEADER:
            size = int(header[48:58])
            if size < 0:
                raise ValueError("a member has a negative size")
            content = stream.read(size)
            if len(content) != size:
                raise ValueError("it is cut short")
            stream.read(size & 1)
            yield header[:16].decode("ascii").strip().rstrip("/"), content


def _decompress(name: str, content: bytes) -> bytes:
    match name.rpartition(".")[2]:
        case "xz":
            return lzma.decompress(content)
        case "gz":
            return gzip.decompress(content)
        case "tar":
            return content
        case "zst":
            try:
                import zstandard  # noqa: PLC0415  (an extra: Debian's own packages are xz)
            except ImportError:
                raise BuildError(
                    "a Debian package is compressed with zstd", hint="pip install 'mlvm[zstd]'"
                ) from None
            return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(content))
        case other:
            raise ValueError(f"unknown compression `{other}`")
