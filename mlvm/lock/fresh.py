"""Whether a lock still fits its spec, and if not, every reason why.

The lock echoes the part of the spec it was resolved from, so the comparison needs no network and no guessing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mlvm.lock.debian import BOOT, TOOLS
from mlvm.lock.document import DebianPackage, Lock
from mlvm.spec.document import Spec


def stale_reasons(spec: Spec, lock: Lock) -> list[str]:
    """Return the reasons why `lock` does not fit `spec`, each a line; empty when it is fresh."""
    reasons = [f"name: {lock.name} -> {spec.name}"] if spec.name != lock.name else []
    reasons += input_reasons(lock.inputs, spec.resolution_inputs())
    reasons += _not_in("tools", lock.tools, TOOLS)
    reasons += _not_in("boot", lock.boot, BOOT)
    return reasons


def input_reasons(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return what differs between the inputs of two resolutions, each a line; the order of packages does not count."""
    reasons = [
        f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
        for key in sorted(new.keys() | old.keys())
        if key != "packages" and new.get(key) != old.get(key)
    ]
    return reasons + _package_reasons(_texts(old.get("packages")), _texts(new.get("packages")))


def _package_reasons(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """Pair what was removed with what was added of the same name, so that a change reads as one."""
    removed = sorted((Counter(old) - Counter(new)).elements(), key=_name)
    added = sorted((Counter(new) - Counter(old)).elements(), key=_name)
    lines = []
    for text in removed:
        if (after := next((other for other in added if _name(other) == _name(text)), None)) is not None:
            added.remove(after)
            lines.append((_name(text), f"packages: `{text}` is now `{after}`"))
        else:
            lines.append((_name(text), f"packages: `{text}` was removed"))
    lines += [(_name(text), f"packages: `{text}` was added") for text in added]
    return [line for _, line in sorted(lines)]


def _name(requirement: str) -> str:
    try:
        return canonicalize_name(Requirement(requirement).name)
    except InvalidRequirement:
        return requirement


def _texts(value: object) -> list[str]:
    return (
        [_plain(text) for text in value if isinstance(text, str)] if isinstance(value, list | tuple) else []
    )


def _plain(requirement: str) -> str:
    """One spelling for what means the same: `numpy >= 2` and `numpy>=2`."""
    try:
        return str(Requirement(requirement))
    except InvalidRequirement:
        return requirement


def _not_in(part: str, packages: Iterable[DebianPackage], needed: Iterable[str]) -> list[str]:
    """A lock from before mlvm learnt to need something cannot be built any more."""
    there = {package.name for package in packages}
    return [f"{part}: `{name}` is missing, and this mlvm needs it" for name in needed if name not in there]


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return " and ".join(_shown(part) if isinstance(part, Mapping) else str(part) for part in value)
    return "nothing" if value is None else str(value)
