"""A Python that no Debian package brings: an archive of a build that runs anywhere, put at a place of its own.

The lock names the archive by its digest, which says that it is the one meant, not that it is harmless: every name and
link is checked before it becomes a file of the image or, for compiling, of the host. What only developers of Python
need stays out. The release's own Python is not touched: the agent and Debian's programs go on with that.
"""

from __future__ import annotations

import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlvm.download import Blobs
from mlvm.errors import BuildError
from mlvm.image.sources import checked_blob
from mlvm.image.tree import Tree
from mlvm.lock.document import Interpreter

#: Where it is in the guest, without the leading slash.
PREFIX = "opt/mlvm/python"
#: The one folder that everything in the archive is in.
_TOP = "python"
#: Python's own tests, bytecode of another builder, manuals, and archives for whoever links Python into a program.
_LEFT_OUT = re.compile(
    r"lib/python3\.[0-9]+t?/(?:test|idlelib|lib2to3/tests)/|.*\.a|(?:.*/)?__pycache__/|share/man/"
)
_READ_ERRORS = (tarfile.TarError, EOFError, zlib.error, OSError, UnicodeError, ValueError)
_MOST_BYTES = 2 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One thing in the archive, by its path below the prefix; `link` is relative, and stays inside."""

    path: str
    content: bytes = b""
    link: str = ""
    executable: bool = False


def add_interpreter(tree: Tree, interpreter: Interpreter, blobs: Blobs, *, python: str) -> list[str]:
    """Put the Python into `tree`, root's; return the paths of its modules. Raises BuildError, DigestError."""
    modules = []
    for entry in _entries(interpreter, blobs, python=python):
        path = f"{PREFIX}/{entry.path}"
        if entry.link:
            tree.symlink(path, entry.link)
            continue
        tree.file(path, entry.content, mode=0o755 if entry.executable else 0o644)
        if re.fullmatch(r"lib/python[^/]+/(?:.*/)?[^/]+\.py", entry.path):
            modules.append(path)
    return sorted(modules)


def unpack_interpreter(interpreter: Interpreter, blobs: Blobs, folder: Path, *, python: str) -> None:
    """Put the Python below `folder` of the host, where it is in the guest. Raises BuildError, DigestError."""
    for entry in _entries(interpreter, blobs, python=python):
        place = folder / PREFIX / entry.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if entry.link:
            place.symlink_to(entry.link)
        else:
            place.write_bytes(entry.content)
            place.chmod(0o755 if entry.executable else 0o644)


def _entries(interpreter: Interpreter, blobs: Blobs, *, python: str) -> list[Entry]:
    """Return what is in the archive, sorted; hard links become files of their own."""
    name = f"Python {interpreter.version}"
    path = checked_blob(name, interpreter.sha256, blobs)
    try:
        with tarfile.open(path, "r:gz") as archive:
            found = {entry.path: entry for entry in _read(name, archive)}
    except _READ_ERRORS as broken:
        raise BuildError(f"{name}: its archive cannot be read: {broken}") from None
    _check_places(name, found)
    for wanted in (f"bin/python{python}", f"lib/python{python}/os.py"):
        if wanted not in found:
            raise BuildError(
                f"{name}: its archive has no `{_TOP}/{wanted}`", hint="mlvm lock --upgrade python"
            )
    return [found[path] for path in sorted(found)]


def _read(name: str, archive: tarfile.TarFile) -> Iterator[Entry]:
    """Yield the entries as they come. Raises BuildError for a name or a kind that has no business there."""
    seen: dict[str, Entry] = {}
    total = 0
    for member in archive:
        path = _inside(name, member.name)
        if member.isdir() or not path or _LEFT_OUT.match(path):
            continue
        total += member.size
        if total > _MOST_BYTES:
            raise BuildError(f"{name}: its archive is larger than {_MOST_BYTES >> 30} GiB")
        if path in seen:
            raise BuildError(f"{name}: `{member.name!a}` is in its archive twice")
        if member.issym():
            entry = Entry(path=path, link=_link(name, path, member.linkname))
        elif member.islnk():
            shared = seen.get(_inside(name, member.linkname))
            if shared is None or shared.link:
                raise BuildError(f"{name}: `{member.name!a}` is a link to what is not in its archive")
            entry = Entry(path=path, content=shared.content, executable=shared.executable)
        elif member.isfile():
            stream = archive.extractfile(member)
            assert stream is not None
            entry = Entry(path=path, content=stream.read(), executable=bool(member.mode & 0o111))
        else:
            raise BuildError(f"{name}: `{member.name!a}` is neither a file nor a link")
        seen[path] = entry
        yield entry


def _inside(name: str, path: str) -> str:
    """Return a member's path below the top folder, empty for that itself. Raises BuildError for any other place."""
    parts = path.removeprefix("./").rstrip("/").split("/")
    if parts[0] != _TOP or {"", ".", ".."} & set(parts) or not path.isprintable():
        raise BuildError(f"{name}: `{path!a}` in its archive would be written outside of its folder")
    return "/".join(parts[1:])


def _link(name: str, path: str, target: str) -> str:
    """Return a symbolic link's target, if it stays inside. Raises BuildError."""
    resolved = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if target.startswith("/") or resolved.startswith("..") or not target.isprintable():
        raise BuildError(f"{name}: link `{path!a}` in its archive leads out of its folder: `{target!a}`")
    return target


def _check_places(name: str, found: Iterable[str] | dict[str, Entry]) -> None:
    """Nothing may stand below what is a file or a link: it would be written through that."""
    for path in found:
        above = posixpath.dirname(path)
        while above:
            if above in found:
                raise BuildError(f"{name}: `{path!a}` in its archive is below `{above}`, which is no folder")
            above = posixpath.dirname(above)
