"""The system layer: Debian, from the lock's packages, without running any of their scripts.

Files are merged in the order of package names, documentation is left out, and what scripts would have made is made
by `synthesis` from the tables in `mlvm.lock.scripts`. Nothing foreign is run and nothing of the host is looked at, so
it is the same for root and for a user, on any distribution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mlvm.download import Blobs
from mlvm.errors import BuildError
from mlvm.image.accounts import accounts_of, add_accounts
from mlvm.image.bytecode import Compiler
from mlvm.image.dpkg_database import add_database, packaged_conffiles
from mlvm.image.merged import MERGED, merged_path
from mlvm.image.settings import add_settings
from mlvm.image.sources import read_deb
from mlvm.image.synthesis import synthesize
from mlvm.image.tree import Node, Tree
from mlvm.lock.deb import Deb, DebEntry, Kind
from mlvm.lock.document import DebianPackage, Lock
from mlvm.lock.scripts import scripts_of

#: What a guest without a reader does without; licences stay.
LEFT_OUT = re.compile(r"usr/share/(doc/(?!.*/?copyright$)|man/|info/|locale/|lintian/|bug/|gnome/help/)")


def make_system(lock: Lock, blobs: Blobs, *, workers: int, compiler: Compiler) -> Tree:
    """Return the tree of the system layer. Raises BuildError or DigestError."""
    release, python = str(lock.inputs["debian"]), lock.system_python
    debs = sorted(_read_all(lock.system, blobs, workers), key=lambda package: package.name)
    tree = merge(debs)
    if f"usr/bin/python{python}" not in tree:
        raise BuildError(
            f"Debian {release} has no Python {python} among its packages in the lock",
            hint="mlvm lock, or another `debian` in the spec: its release decides which Python there is",
        )
    scripts = scripts_of(release)
    accounts = accounts_of(tree, scripts)
    add_database(tree, debs, scripts=scripts, originals=packaged_conffiles(debs))
    synthesize(tree, scripts, accounts, python=python)
    add_accounts(tree, accounts)
    add_settings(tree, lock.archives, release=release)
    for folder in (f"usr/lib/python{python}", "usr/lib/python3"):
        compiler.add_to(tree, below=folder)
    tree.add_parents()
    return tree


def _read_all(packages: Sequence[DebianPackage], blobs: Blobs, workers: int) -> Iterator[Deb]:
    """Unpack packages side by side: the time goes into xz, which leaves other threads alone."""
    read: Callable[[DebianPackage], Deb] = lambda package: read_deb(package, blobs)  # noqa: E731
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(read, packages)


def merge(debs: Sequence[Deb]) -> Tree:
    """Return one tree of all files of `debs`. Raises BuildError when two packages bring one file."""
    tree = Tree()
    owners: dict[str, Deb] = {}
    for package in debs:
        for entry in package.entries:
            path = merged_path(entry.path)
            if path in MERGED.values() and entry.kind is Kind.SYMLINK:
                continue
            if LEFT_OUT.match(path + "/" if entry.kind is Kind.FOLDER else path):
                continue
            if entry.kind is Kind.FOLDER:
                if path not in tree:
                    tree.put(path, _node(entry))
                continue
            if _wins(package, path, owners, tree):
                owners[path] = package
                tree.put(path, _node(entry))
    return tree


def _wins(package: Deb, path: str, owners: Mapping[str, Deb], tree: Tree) -> bool:
    """Tell whether a package's file is taken: two may have one only where one says that it replaces the other."""
    other = owners.get(path)
    if other is None:
        if path in tree:
            raise BuildError(f"`{package.name}` has a file where other packages have the folder `/{path}`")
        return True
    if other.name in _replaced_by(package):
        return True
    if package.name in _replaced_by(other):
        return False
    raise BuildError(f"`{other.name}` and `{package.name}` both bring `/{path}`")


def _replaced_by(package: Deb) -> set[str]:
    """Return the packages whose files this one may take over."""
    return {part.split("(")[0].strip() for part in package.fields.get("Replaces", "").split(",")}


def _node(entry: DebEntry) -> Node:
    return Node(
        kind=entry.kind,
        mode=0o777 if entry.kind is Kind.SYMLINK else entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=entry.mtime,
        link=merged_path(entry.link) if entry.kind is Kind.HARDLINK else entry.link,
        content=entry.data,
        xattrs=entry.xattrs,
    )
