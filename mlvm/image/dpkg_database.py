"""dpkg's database in the guest: every package installed and configured, as dpkg would have left it.

So `dpkg -l`, `dpkg -S` and `apt-get install` work in the guest as on any Debian system.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from mlvm.image.tree import Tree
from mlvm.lock.deb import SCRIPTS, Deb, Kind
from mlvm.lock.scripts import Scripts

ROOT = "var/lib/dpkg"
_EXECUTABLE = frozenset(SCRIPTS)


def add_database(
    tree: Tree, debs: Sequence[Deb], *, scripts: Scripts, originals: Mapping[str, bytes]
) -> None:
    """Write the database of `debs`; `originals` are conffiles as packaged, by their path in a merged tree."""
    stanzas = []
    for package in debs:
        _add_info(tree, package)
        stanzas.append(_status(package, originals))
    tree.file(f"{ROOT}/status", "\n".join(stanzas))
    tree.file(f"{ROOT}/arch", "amd64\n")
    tree.file(f"{ROOT}/info/format", "1\n")
    tree.file(f"{ROOT}/diversions", "".join(f"{path}\n{to}\n{by}\n" for path, to, by in scripts.diversions))
    recorded = [override for override in scripts.overrides if override.recorded]
    tree.file(f"{ROOT}/statoverride", "".join(f"{o.user} {o.group} {o.mode:o} /{o.path}\n" for o in recorded))
    for folder in ("updates", "parts"):
        tree.folder(f"{ROOT}/{folder}")
    _add_triggers(tree, debs)


def _add_info(tree: Tree, package: Deb) -> None:
    """Write the list of a package's files and its control members."""
    key = f"{ROOT}/info/{_key(package)}"
    paths = ["/.", *(f"/{entry.path}" for entry in package.entries)]
    tree.file(f"{key}.list", "\n".join(paths) + "\n")
    for name, content in package.control.items():
        if "/" not in name:
            tree.file(f"{key}.{name}", content, mode=0o755 if name in _EXECUTABLE else 0o644)


def _key(package: Deb) -> str:
    """Return the stem of the package's files: with its architecture where several may be installed."""
    if package.fields.get("Multi-Arch") == "same":
        return f"{package.name}:{package.fields['Architecture']}"
    return package.name


def _status(package: Deb, originals: Mapping[str, bytes]) -> str:
    """Return the package's stanza in the status file."""
    stanza = re.sub(
        r"^(Package: .*)$",
        r"\1\nStatus: install ok installed",
        package.stanza.strip("\n"),
        count=1,
        flags=re.MULTILINE,
    )
    lines = [
        f" /{path} {hashlib.md5(originals[path], usedforsecurity=False).hexdigest()}"
        for path in package.conffiles
        if path in originals
    ]
    for line in package.control.get("conffiles", b"").decode(errors="replace").splitlines():
        if line.startswith("remove-on-upgrade "):
            lines.insert(0, f" {line.split()[1]} newconffile remove-on-upgrade")
    return stanza + ("\nConffiles:\n" + "\n".join(lines) if lines else "") + "\n"


def _add_triggers(tree: Tree, debs: Sequence[Deb]) -> None:
    """Write who wants to hear of which trigger; none is pending."""
    files: list[str] = []
    named: dict[str, list[str]] = {}
    for package in debs:
        for line in package.control.get("triggers", b"").decode(errors="replace").splitlines():
            words = line.split("#")[0].split()
            if len(words) != 2 or not words[0].startswith("interest"):
                continue
            who = package.name + ("/noawait" if words[0].endswith("noawait") else "")
            if words[1].startswith("/"):
                files.append(f"{words[1]} {who}")
            else:
                named.setdefault(words[1], []).append(who)
    tree.folder(f"{ROOT}/triggers")
    tree.file(f"{ROOT}/triggers/File", "".join(f"{line}\n" for line in files))
    tree.file(f"{ROOT}/triggers/Unincorp", "")
    for name, interested in named.items():
        tree.file(f"{ROOT}/triggers/{name}", "".join(f"{who}\n" for who in interested))


def packaged_conffiles(debs: Sequence[Deb]) -> dict[str, bytes]:
    """Return every conffile as its package brings it, by its packaged path."""
    return {
        entry.path: entry.data
        for package in debs
        for entry in package.entries
        if entry.kind is Kind.FILE and entry.path in package.conffiles
    }
