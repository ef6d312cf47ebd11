"""Packages whose code stays in the project: what their `pyproject.toml` says of them, as far as it is plain data.

The code is not in the image. A path in the image's Python leads to a place where the machine has the folder of the
host, so an edit on the host is what the next import in the machine reads. Name, version, commands and entry points
are in the image, and so in the lock. A backend is never asked: what only it could say is refused.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlvm.spec import requirements
from mlvm.spec.complaints import Mark, Place, shown
from mlvm.spec.document import EDITABLE, Editable, SharedFolder
from mlvm.spec.requirements import FromFile

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_WORD = re.compile(r"(?!\.\.?$)[A-Za-z0-9_.+-]+")
_OBJECT = re.compile(r"[A-Za-z_][\w.]*(?::[A-Za-z_][\w.]*)?(?: *\[[\w, -]*\])?")
#: The version of a package that leaves that to its backend.
UNKNOWN = "0+editable"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A package of the project, and what it depends on."""

    package: Editable
    dependencies: FromFile = field(default_factory=FromFile)


def read(folder: str, beside: Path, mark: Mark, at: Place) -> Found | None:
    """Return the package in `folder`, relative to `beside`; None after saying at `mark` why there is none."""
    path = beside / folder / "pyproject.toml"
    text = requirements.read_text(path, mark, at, most=requirements.MOST_BYTES)
    if text is None:
        return None
    before = len(at.report.complaints)
    dependencies = requirements.read_file(path, mark, at)  # complains of a file that makes no sense
    if len(at.report.complaints) > before:
        return None
    project = tomllib.loads(text)["project"]
    name, version = project.get("name"), project.get("version")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        at.complain(Mark(file=str(path)), "`project.name` is not a package's name")
        return None
    if version is None and "version" in project.get("dynamic", []):
        version = UNKNOWN
    try:
        version = str(Version(version))
    except (InvalidVersion, TypeError):
        at.complain(Mark(file=str(path)), f"`project.version` of `{shown(name)}` is not a version")
        return None
    entries = _entries(project, path, at)
    if entries is None:
        return None
    code = "src" if (beside / folder / "src").is_dir() else ""
    package = Editable(
        name=canonicalize_name(name), version=version, folder=folder, code=code, entries=entries
    )
    return Found(package=package, dependencies=dependencies)


def _entries(project: Mapping[str, Any], path: Path, at: Place) -> Mapping[str, Mapping[str, str]] | None:
    """Return the groups of entry points: commands among them."""
    groups = dict(project.get("entry-points", {}))
    for key, group in (("scripts", "console_scripts"), ("gui-scripts", "gui_scripts")):
        if key in project:
            groups[group] = project[key]
    for group, entries in groups.items():
        plain = isinstance(entries, dict) and _WORD.fullmatch(group)
        command = group in {"console_scripts", "gui_scripts"}
        if not plain or not all(
            _WORD.fullmatch(name)
            and isinstance(target, str)
            and _OBJECT.fullmatch(target)
            and (":" in target or not command)
            for name, target in entries.items()
        ):
            at.complain(Mark(file=str(path)), f"entry points `{shown(group)}` cannot be made")
            return None
    return MappingProxyType({group: MappingProxyType(dict(groups[group])) for group in sorted(groups)})


def shares(
    packages: tuple[Editable, ...], share: tuple[SharedFolder, ...] | None, mark: Mark, at: Place
) -> tuple[SharedFolder, ...] | None:
    """Return what a machine shares so that it has the packages' code, each at a place that its image knows.

    Complains of a package whose folder the spec does not share.
    """
    if not packages:
        return share
    said = (SharedFolder(folder=".", write=True),) if share is None else share
    found = []
    for package in packages:
        own = _parts(package.folder)
        within = [one for one in said if own[: len(_parts(one.folder))] == _parts(one.folder)]
        if not within:
            at.complain(
                mark,
                f"the code of `{package.name}` is in `{package.folder}`, which `share` does not share; "
                "share it, or take it out of `editable`",
            )
            continue
        place = f"{EDITABLE}/{package.name}"
        found.append(SharedFolder(folder=package.folder, at=place, write=any(one.write for one in within)))
    return (*said, *found)


def _parts(folder: str) -> list[str]:
    return [part for part in folder.split("/") if part not in {"", "."}]
