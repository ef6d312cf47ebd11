"""requirements.txt and pyproject.toml, read leniently: the strict reader's complaints become what is left out.

Of Poetry's own table the constraints are translated (`^1.2` is `>=1.2,<2`), which a spec's own `requirements` is not.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlvm.errors import SpecError
from mlvm.spec import requirements
from mlvm.spec.capture.found import Found
from mlvm.spec.complaints import Mark, Place, Report, shown
from mlvm.spec.draft import CONDA_SITE

_CONDA_LINE = re.compile(r"^`([A-Za-z0-9][A-Za-z0-9._-]*) @ file:")


def from_requirements(path: Path) -> Found:
    """Read a requirements.txt."""
    report = Report()
    found = requirements.read_file(path, Mark(file=str(path)), Place(report=report))
    lost, left = lenient(report, path)
    packages = (*(one.text for one in found.wanted), *lost)
    return Found(what=path.name, packages=packages, left=(*left, *report.notes))


def from_pyproject(path: Path) -> Found:
    """Read a pyproject.toml: its `[project]`, else Poetry's table."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as broken:
        raise SpecError(f"`{path}` cannot be read as TOML", details=str(broken)) from None
    project = document.get("project")
    project = project if isinstance(project, dict) else {}
    poetry = _table(document, "tool", "poetry")
    name = str(project.get("name") or poetry.get("name") or "")
    if "dependencies" not in project and "dependencies" in poetry:
        return _poetry(poetry, path.name, name)
    if not project:
        raise SpecError(f"there is no `[project]` table in `{path}`, and no `[tool.poetry]` either")
    report = Report()
    found = requirements.read_file(path, Mark(file=str(path)), Place(report=report))
    lost, left = lenient(report, path)
    extras = _table(project, "optional-dependencies")
    if extras:
        left.append(f"optional dependencies ({', '.join(map(shown, extras))}): not taken")
    return Found(
        what=path.name,
        packages=(*(one.text for one in found.wanted), *lost),
        left=tuple(left),
        requires=str(found.requires_python or ""),
        name=name,
    )


def lenient(report: Report, path: Path) -> tuple[list[str], list[str]]:
    """Return the packages whose versions alone are lost in what was complained of, and what is left out with them.

    `pip freeze` in one of conda's environments names folders in which conda built, and no versions.
    """
    packages, left = [], []
    for one in report.complaints:
        file = Path(one.mark.file)
        where = f"{file.name if file.parent == path.parent else file}:{one.mark.line}"
        conda = _CONDA_LINE.match(one.text)
        if conda and CONDA_SITE.search(one.text):
            packages.append(conda[1])
            left.append(f"{where}: {conda[1]} was built by conda, and its version is not said")
        else:
            left.append(f"{where}: {_said(one.text)}")
    return packages, left


def _said(complaint: str) -> str:
    """Return a complaint of the strict reader's in the words of one who goes on without it."""
    if re.search(r"`(?:[^`]*@ )?(?:git|hg|svn|bzr)\+", complaint):
        return (
            f"{complaint.partition('`:')[0].partition('` ')[0]}`: from version control; name a release of it"
        )
    return complaint.replace("not yet: ", "left out: ")


def _table(document: dict[str, Any], *keys: str) -> dict[str, Any]:
    found: Any = document
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _poetry(table: dict[str, Any], what: str, name: str) -> Found:
    left: list[str] = []
    wanted = dict(_table(table, "dependencies"))
    python = wanted.pop("python", "")
    packages = [text for key, value in wanted.items() for text in _poetry_package(key, value, left)]
    requires = poetry_range(str(python)) if python else ""
    if requires is None:
        left.append(f"python `{shown(str(python))}`: this range cannot be translated")
    groups = [*_table(table, "group"), *(["dev"] if "dev-dependencies" in table else [])]
    if groups:
        left.append(f"groups ({', '.join(map(shown, groups))}): not taken")
    return Found(
        what=f"{what} (Poetry)",
        packages=tuple(packages),
        left=tuple(left),
        requires=requires or "",
        name=name,
    )


def _poetry_package(name: str, value: Any, left: list[str]) -> Iterator[str]:
    table = value if isinstance(value, dict) else {"version": value}
    if elsewhere := [key for key in ("git", "path", "url", "file") if key in table]:
        left.append(
            f"{shown(name)}: from {elsewhere[0]} `{shown(str(table[elsewhere[0]]))}`, not from an index"
        )
        return
    if isinstance(value, list) or table.get("optional") or "python" in table:
        left.append(f"{shown(name)}: wanted only sometimes; add it to `packages` if it is")
        return
    found = poetry_range(str(table.get("version", "*")))
    if found is None:
        left.append(f"{shown(name)}: the range `{shown(str(table.get('version')))}` cannot be translated")
        return
    extras = table.get("extras")
    marker = f"; {table['markers']}" if isinstance(table.get("markers"), str) else ""
    yield (
        name
        + (f"[{','.join(map(str, extras))}]" if isinstance(extras, list) and extras else "")
        + found
        + marker
    )


def poetry_range(text: str) -> str | None:
    """Return Poetry's range of versions as a specifier; None for what there is no specifier for."""
    parts = [part.strip() for part in text.split(",") if part.strip() not in {"", "*"}]
    found = []
    for part in parts:
        plain = re.fullmatch(r"(\^|~(?!=)|)\s*v?(\d+(?:\.\d+)*)", part)
        if plain and plain[1]:
            found += [f">={plain[2]}", f"<{_next(plain[2], caret=plain[1] == '^')}"]
        elif plain:
            found.append(f"=={plain[2]}")
        elif re.fullmatch(r"\d+(?:\.\d+)*\.\*", part):
            found.append(f"=={part}")
        elif re.fullmatch(r"(?:==|>=|<=|!=|~=|>|<)\s*[\w.*+!-]+", part):
            found.append(re.sub(r"\s+", "", part))
        else:
            return None
    return ",".join(found)


def _next(version: str, *, caret: bool) -> str:
    """Return the first version that is too new: for a caret where the first number that is not 0 grows."""
    numbers = [int(part) for part in version.split(".")]
    at = min(1, len(numbers) - 1)
    if caret:
        at = next((index for index, number in enumerate(numbers) if number), len(numbers) - 1)
    return ".".join(map(str, [*numbers[:at], numbers[at] + 1]))
