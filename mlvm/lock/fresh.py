"""Whether a lock still fits its spec, and if not, every reason why.

The lock echoes the part of the spec it was resolved from, so the comparison needs no network and no guessing.
"""

from __future__ import annotations

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlvm.lock.document import Lock
from mlvm.spec.document import Spec


def stale_reasons(spec: Spec, lock: Lock) -> list[str]:
    """Return the reasons why `lock` does not fit `spec`, each a line; empty when it is fresh."""
    wanted, locked = spec.resolution_inputs(), dict(lock.inputs)
    reasons = [
        f"{key}: {_shown(locked.get(key))} -> {_shown(wanted.get(key))}"
        for key in sorted(wanted.keys() | locked.keys())
        if key != "packages" and wanted.get(key) != locked.get(key)
    ]
    if spec.name != lock.name:
        reasons.insert(0, f"name: {lock.name} -> {spec.name}")
    return reasons + _package_reasons(wanted.get("packages"), locked.get("packages"))


def _package_reasons(wanted: object, locked: object) -> list[str]:
    new, old = _by_name(wanted), _by_name(locked)
    reasons = []
    for name in sorted(new.keys() | old.keys()):
        if name not in old:
            reasons.append(f"packages: `{new[name]}` was added")
        elif name not in new:
            reasons.append(f"packages: `{old[name]}` was removed")
        elif new[name] != old[name]:
            reasons.append(f"packages: `{old[name]}` is now `{new[name]}`")
    return reasons


def _by_name(requirements: object) -> dict[str, str]:
    listed = requirements if isinstance(requirements, list) else []
    return {canonicalize_name(Requirement(text).name): str(Requirement(text)) for text in listed}


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
