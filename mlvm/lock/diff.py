"""The difference between two locks, as a person wants to read it.

Python first, since that is what people look for; then the guest's system, guest kernel and tools. The same version
with other bytes is never normal and is said loudly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from packaging.version import InvalidVersion, Version

from mlvm.lock.document import DebianPackage, Lock

Contents = Mapping[str, tuple[str, str]]


def describe(old: Lock, new: Lock) -> list[str]:
    """Return the differences, one a line; empty when both mean the same image."""
    lines = [
        f"{key}: {old.inputs.get(key)} -> {new.inputs.get(key)}"
        for key in sorted({*old.inputs, *new.inputs} - {"packages"})
        if old.inputs.get(key) != new.inputs.get(key)
    ]
    lines += _compare("python", _wheels(old), _wheels(new))
    lines += _compare("system", _debs(old.system), _debs(new.system))
    lines += _compare("boot", _debs(old.boot), _debs(new.boot))
    lines += _compare("tools", _debs(old.tools), _debs(new.tools))
    before = {archive.name: archive.timestamp for archive in old.archives}
    lines += [
        f"archive {archive.name}: {before[archive.name]} -> {archive.timestamp}"
        for archive in new.archives
        if before.get(archive.name, archive.timestamp) != archive.timestamp
    ]
    return lines


def _wheels(lock: Lock) -> Contents:
    return {
        str(package.name): (str(package.version), (package.wheels or ())[0].hashes.get("sha256", ""))
        for package in lock.python.packages
        if package.wheels
    }


def _debs(packages: Iterable[DebianPackage]) -> Contents:
    return {package.name: (package.version, package.sha256) for package in packages}


def _compare(part: str, old: Contents, new: Contents) -> list[str]:
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            lines.append(f"{part}: + {name} {new[name][0]}")
        elif name not in new:
            lines.append(f"{part}: - {name} {old[name][0]}")
        elif old[name][0] != new[name][0]:
            word = _direction(old[name][0], new[name][0])
            lines.append(f"{part}:   {name} {old[name][0]} -> {new[name][0]}{word}")
        elif old[name][1] != new[name][1]:
            lines.append(f"{part}: ! {name} {new[name][0]} has other bytes under the same version")
    return lines


def _direction(old: str, new: str) -> str:
    """A downgrade is worth a word; an upgrade is what one expects."""
    try:
        return " (downgrade)" if Version(new) < Version(old) else ""
    except InvalidVersion:
        return ""
