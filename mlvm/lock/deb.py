"""Read a .deb without dpkg: fields, maintainer scripts, and every file with its bytes.

A .deb is an `ar` archive of `debian-binary`, `control.tar*` and `data.tar*`. The lock looks at the scripts inside, the
image at all of it, and neither may need dpkg: macOS and other hosts have none, and what an image holds must not depend
on the host's version of it. Whatever is wrong with a package's bytes is a BuildError that names the file.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from mlvm.errors import BuildError, MlvmError

MAGIC = b"!<arch>\n"
HEADER_SIZE = 60
#: Control members that dpkg runs.
SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "config")
_XATTR = "SCHILY.xattr."


class Kind(StrEnum):
    """What an entry of a file tree is."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    HARDLINK = "hard link"
    WHITEOUT = "whiteout"  # in a layer only: what lies below is not there


@dataclass(frozen=True, kw_only=True, slots=True)
class DebEntry:
    """One entry of a package's data.

    `path` has neither a leading `./` nor a closing slash, and never leads out of the root; `link` is a symlink's text,
    or the path a hard link shares its bytes with. `mtime` in seconds.
    """

    path: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    link: str = ""
    data: bytes = field(default=b"", repr=False)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Deb:
    """A package, unpacked in memory. `stanza` is the text of its control file, `control` every other control member."""

    name: str
    stanza: str
    fields: Mapping[str, str]
    control: Mapping[str, bytes] = field(repr=False)
    entries: tuple[DebEntry, ...] = field(repr=False)

    @property
    def scripts(self) -> dict[str, str]:
        """The maintainer scripts, by name."""
        return {name: self.control[name].decode(errors="replace") for name in SCRIPTS if name in self.control}

    @property
    def conffiles(self) -> tuple[str, ...]:
        """Paths of the files dpkg would ask before overwriting, without a leading slash."""
        lines = self.control.get("conffiles", b"").decode(errors="replace").splitlines()
        return tuple(line.strip().lstrip("/") for line in lines if line.startswith("/"))


def read(path: Path, *, data: bytes | None = None) -> Deb:
    """Read the package at `path` whole; `data` are its bytes where the caller has them already.

    Raises BuildError for anything that is not a well-formed package.
    """
    try:
        members = _members(path.read_bytes() if data is None else data)
        if not members.get("debian-binary", b"").startswith(b"2."):
            raise ValueError("not a Debian package of format 2")
        control = _control(_decompressed(members, "control.tar"))
        stanza = control.pop("control").decode()
        fields = parse_stanza(stanza)
        entries = tuple(_entries(_decompressed(members, "data.tar")))
        return Deb(name=fields["Package"], stanza=stanza, fields=fields, control=control, entries=entries)
    except MlvmError:
        raise
    # tarfile and lzma answer hostile bytes with any of these.
    except (ValueError, LookupError, ArithmeticError, EOFError, OSError, tarfile.TarError,
            lzma.LZMAError, zlib.error, RecursionError, MemoryError) as broken:  # fmt: skip
        what = f"it has no {broken}" if isinstance(broken, KeyError) else str(broken) or type(broken).__name__
        raise BuildError(
            f"`{path.name}` is not a Debian package that can be read: {what}",
            hint="remove it from the store and build again: it will be downloaded anew",
        ) from None


def parse_stanza(text: str) -> dict[str, str]:
    """Return the fields of a control stanza; continuation lines keep their line ends and leading space."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1] in {" ", "\t"} and name:
            fields[name] += "\n" + line
        elif line.strip():
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"control line without a field: {line[:60]!r}")
            fields[name] = value.strip()
    return fields


def _members(data: bytes) -> dict[str, bytes]:
    """Return the members of an `ar` archive."""
    if not data.startswith(MAGIC):
        raise ValueError("no ar archive")
    members: dict[str, bytes] = {}
    position = len(MAGIC)
    while position < len(data):
        header = data[position : position + HEADER_SIZE]
        if len(header) < HEADER_SIZE or header[58:60] != b"`\n":
            raise ValueError(f"broken ar header at byte {position}")
        digits = header[48:58].rstrip()
        if not digits.isdigit():
            raise ValueError(f"broken ar size at byte {position}")
        size = int(digits)
        position += HEADER_SIZE
        if position + size > len(data):
            raise ValueError("cut short")
        name = header[:16].decode("ascii").rstrip().rstrip("/")
        members[name] = data[position : position + size]
        position += size + size % 2
    return members


def _decompressed(members: Mapping[str, bytes], stem: str) -> bytes:
    """Return the tar called `stem` plus any suffix, uncompressed."""
    names = [name for name in members if name == stem or name.startswith(stem + ".")]
    if len(names) != 1:
        raise ValueError(f"{len(names)} members called {stem}")
    content = members[names[0]]
    match names[0].removeprefix(stem):
        case ".xz":
            return lzma.decompress(content, format=lzma.FORMAT_XZ)
        case ".gz":
            return gzip.decompress(content)
        case ".zst":
            return unzstd(content)
        case "":
            return content
        case other:
            raise ValueError(f"compression `{other}` is unknown")


def unzstd(content: bytes) -> bytes:
    """Decompress zstd, which Debian's packages do not use but their derivatives' do."""
    try:
        import zstandard  # noqa: PLC0415  (optional)
    except ImportError:
        raise BuildError(
            "this package is compressed with zstd, which needs another Python package",
            hint="pip install 'mlvm[zstd]'",
        ) from None
    try:
        return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(content))
    except zstandard.ZstdError as broken:
        raise ValueError(str(broken)) from None


def _control(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        return {
            clean_path(member.name): _bytes(tar, member) for member in tar if member.isreg() or member.islnk()
        }


def _entries(content: bytes) -> Iterator[DebEntry]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for member in tar:
            path = clean_path(member.name)
            if not path:
                continue
            yield DebEntry(
                path=path,
                kind=_kind(member),
                mode=member.mode & 0o7777,
                uid=member.uid,
                gid=member.gid,
                mtime=int(member.mtime),
                link=clean_path(member.linkname) if member.islnk() else member.linkname,
                data=_bytes(tar, member) if member.isreg() else b"",
                xattrs={
                    name.removeprefix(_XATTR): value.encode("utf-8", "surrogateescape")
                    for name, value in member.pax_headers.items()
                    if name.startswith(_XATTR)
                },
            )


def _kind(member: tarfile.TarInfo) -> Kind:
    if member.isreg():
        return Kind.FILE
    if member.isdir():
        return Kind.FOLDER
    if member.issym():
        return Kind.SYMLINK
    if member.islnk():
        return Kind.HARDLINK
    raise ValueError(f"`{member.name}` is neither file, folder nor link")


def _bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    data = stream.read() if stream else b""
    if member.isreg() and len(data) != member.size:
        raise ValueError(f"`{member.name}` is cut short")
    return data


def clean_path(path: str) -> str:
    """Return a member's path without `./` and closing slash; raise ValueError when it leads out of the root."""
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts or "\0" in path or "\n" in path:
        raise ValueError(f"path {path!r} leads out of the root")
    return "/".join(parts)
