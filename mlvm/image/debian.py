"""Merge .debs into a tree, without dpkg and without their scripts.

Paths are moved into the merged /usr as they come (`/bin/ls` is `usr/bin/ls`), documentation that no program reads is
left out, and dpkg's database is written as if dpkg had unpacked and configured everything, so that `dpkg -l`,
`dpkg -S` and `apt-get install` work in the guest.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlvm.image.tree import SOURCE_DATE, Node, Tree
from mlvm.lock.deb import Control, Entry, read_control, read_data
from mlvm.lock.document import DebianPackage

#: Top-level folders that are links into /usr on every supported release.
MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
#: Read by people, not by programs; copyright files stay, their licences ask for it.
LEFT_OUT = re.compile(r"usr/share/(doc/(?!.*copyright$)|man/|info/|locale/|lintian/|bug/|doc-base/)")
_INFO = "var/lib/dpkg/info"
_SCRIPTS = {"preinst", "postinst", "prerm", "postrm", "config"}


def merge(packages: Iterable[tuple[DebianPackage, Path]]) -> Tree:
    """Return the tree of these packages (each with its file), with dpkg's database."""
    tree = Tree()
    stanzas = []
    with ThreadPoolExecutor(2) as pool:  # lzma works outside the interpreter's lock
        for package, control, entries in pool.map(_read, packages):
            listed = [_unpack(entry, tree) for entry in entries]
            stanzas.append(_register(package, control, listed, tree))
    for name, target in MERGED.items():
        if any(path.startswith(target + "/") for path in tree.nodes):
            tree.symlink(name, target)
    tree.file("var/lib/dpkg/status", "\n".join(stanzas))
    tree.file("var/lib/dpkg/available", "")
    tree.file(f"{_INFO}/format", "1\n")
    for folder in ("updates", "triggers", "parts", "alternatives"):
        tree.folder(f"var/lib/dpkg/{folder}")
    return tree


def _read(item: tuple[DebianPackage, Path]) -> tuple[DebianPackage, Control, list[Entry]]:
    package, path = item
    return package, read_control(path), list(read_data(path))


def merged_path(path: str) -> str:
    """Return where a package's path is once /usr is merged."""
    first, slash, rest = path.partition("/")
    return MERGED[first] + slash + rest if first in MERGED else path


def _unpack(entry: Entry, tree: Tree) -> str:
    """Put one entry into the tree; return the line for the package's file list."""
    path = merged_path(entry.path)
    listed = "/" + entry.path
    if LEFT_OUT.match(path + "/" if entry.kind == tarfile.DIRTYPE else path):
        return listed
    if entry.path in MERGED or (entry.kind == tarfile.DIRTYPE and path in tree):
        return listed
    link = merged_path(entry.link.removeprefix("./")) if entry.kind == tarfile.LNKTYPE else entry.link
    tree.put(
        path,
        Node(
            kind=entry.kind,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime=min(entry.mtime, SOURCE_DATE),
            link=link,
            content=entry.content,
        ),
    )
    return listed


def _register(package: DebianPackage, control: Control, listed: list[str], tree: Tree) -> str:
    """Write a package's files of dpkg's database; return its status stanza."""
    key = package.name
    if control.fields.get("Multi-Arch", "").strip() == "same":
        key += ":" + package.architecture
    tree.file(f"{_INFO}/{key}.list", "/.\n" + "".join(f"{line}\n" for line in listed))
    for name, content in control.members.items():
        tree.file(f"{_INFO}/{key}.{name}", content, mode=0o755 if name in _SCRIPTS else 0o644)
    stanza = re.sub(
        r"^(Package: .*)$", r"\1\nStatus: install ok installed", control.text, count=1, flags=re.MULTILINE
    )
    conffiles = [
        f" {path} {hashlib.md5(tree.content(inside), usedforsecurity=False).hexdigest()}"
        for path in control.conffiles()
        if (inside := merged_path(path.lstrip("/"))) in tree and tree.nodes[inside].kind == tarfile.REGTYPE
    ]
    if conffiles:
        stanza += "\nConffiles:\n" + "\n".join(conffiles)
    return stanza + "\n"
