"""Templates: the specs that other specs inherit from, and how the two are joined.

A name means one that is shipped in templates/, a path a file relative to the spec. A template may inherit in turn.
Joining: single values override; `packages` (with those of `requirements`) append, and a package of the same name
replaces the template's; `env`, `index` and `machine` join key by key; a port that shares either end replaces the
template's.
`debian` and `python` are one choice: naming either drops what the template says of both. A template's name stays its
own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from mlvm.paths import shipped
from mlvm.spec.complaints import Mark, Place, shown
from mlvm.spec.requirements import Wanted
from mlvm.spec.scalars import nearest


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """One document, before it is joined with what it inherits; `limits` are the Pythons its files are for."""

    values: dict[str, Any]
    wanted: tuple[Wanted, ...] = ()
    limits: tuple[tuple[SpecifierSet, Mark], ...] = field(default=())


def shipped_templates() -> dict[str, Path]:
    """Return the shipped templates, name to file, sorted by name."""
    return {path.stem: path for path in sorted(shipped("templates").glob("*.yaml"))}


def find(value: str, folder: Path, mark: Mark, at: Place) -> Path | None:
    """Return the file that `template: value` means in a spec of `folder`, or None after saying there is none."""
    if value.endswith((".yaml", ".yml")):
        return folder / value
    known = shipped_templates()
    if value in known:
        return known[value]
    guess = nearest(value, known)
    hint = f"did you mean `{guess}`?" if guess else f"there are {', '.join(f'`{name}`' for name in known)}"
    at.complain(mark, f"there is no template called `{shown(value)}`; {hint}")
    return None


def join(base: Sheet, own: Sheet) -> Sheet:
    """Return `own` with what it inherits from `base`."""
    values = {key: value for key, value in base.values.items() if key != "name"}
    if own.values.keys() & {"debian", "python"}:
        values.pop("debian", None)
        values.pop("python", None)
    values |= own.values
    for key in ("env", "index", "machine"):
        if joined := {**base.values.get(key, {}), **own.values.get(key, {})}:
            values[key] = joined
    ports = own.values.get("ports", ())
    inherited = [
        port
        for port in base.values.get("ports", ())
        if not any(port.host == mine.host or port.guest == mine.guest for mine in ports)
    ]
    if inherited:
        values["ports"] = (*inherited, *ports)
    return Sheet(values=values, wanted=_join_wanted(base.wanted, own.wanted), limits=base.limits + own.limits)


def _join_wanted(base: Iterable[Wanted], own: tuple[Wanted, ...]) -> tuple[Wanted, ...]:
    replaced = {wanted.name for wanted in own}
    return (*(wanted for wanted in base if wanted.name not in replaced), *own)
