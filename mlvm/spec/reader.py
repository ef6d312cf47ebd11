"""Reads `mlvm.yaml` into a Spec, strictly: every complaint at once, each with its file, line, column and path.

The steps: text to nodes (`nodes`), nodes to values by the table of fields (`table`), the requirements file and the
template are read and joined, and what concerns several fields is checked last.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from mlvm.errors import SpecError
from mlvm.paths import SPEC_NAME
from mlvm.spec import editable, machines, nodes, requirements, template
from mlvm.spec.complaints import Mark, Place, Report
from mlvm.spec.document import DEBIAN_PYTHON, PYTHONS, Spec
from mlvm.spec.nodes import Keyed
from mlvm.spec.requirements import FromFile, Wanted
from mlvm.spec.table import document, full_pythons, listed, pythons_allowed, release_of
from mlvm.spec.template import Sheet

#: Templates that inherit from templates: more than this is a mistake.
MOST_TEMPLATES = 20


def load(path: Path) -> Spec:
    """Read the spec in file `path`. Raises SpecError with every complaint."""
    try:
        missing = not path.is_file()
    except (OSError, ValueError):
        missing = True
    if missing:
        raise SpecError(f"there is no `{path}`", hint="mlvm init")
    report = Report()
    at = Place(report=report)
    text = requirements.read_text(path, Mark(file=str(path)), at, most=nodes.MOST_BYTES)
    if text is None:
        report.check(str(path))
    return loads(text or "", path=path)


def loads(text: str, *, path: Path | None = None) -> Spec:
    """Read a spec from its text; `path` is where it stands, for complaints and for the files that it names."""
    report = Report()
    file = str(path) if path else SPEC_NAME
    folder = path.parent if path else Path()
    sheet = _Reading(report).sheet(text, file, folder, chain=(path.resolve(),) if path else ())
    spec = None if sheet is None else _spec(sheet, report, path)
    report.check(file)
    assert spec is not None, "whatever keeps a spec from being made has been complained of"
    return spec


class _Reading:
    """Reads one spec and the files that it leads to."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def sheet(
        self, text: str, file: str, folder: Path, *, chain: tuple[Path, ...], base: bool = False
    ) -> Sheet | None:
        """Read a document and join it with its template; None when there is nothing to go on with."""
        at = Place(report=self.report)
        node = nodes.parse(text, file, at=at)
        if node is None:
            return None
        if not isinstance(node, Keyed):
            document.read(node, at)
            return None
        values = document.read_fields(node, at, partial=base)
        _choose_pair(values, node)
        if base and node.find("editable") is not None:
            values.pop("editable", None)
            at.below("editable").complain(_mark_of("editable", node), "a template has no code of its own")
        machines.check(values, node, at)
        own = self.with_requirements(values, node, folder, at)
        own = replace(own, values=_with_plain_index(own.values, node, at))
        if (inherited := self.template(values, node, folder, at, chain=chain)) is not None:
            own = template.join(inherited, own)
        return own

    def with_requirements(self, values: dict[str, Any], node: Keyed, folder: Path, at: Place) -> Sheet:
        """Return the sheet of `values`, with the packages of its requirements file before its own."""
        wanted: tuple[Wanted, ...] = ()
        limits: tuple[Any, ...] = ()
        for number, place in enumerate(values.pop("editable", ())):
            mark, below = _mark_of("editable", node), at.below("editable").below(number)
            if own := editable.read(place, folder, mark, below):
                wanted += own.dependencies.wanted
                limits += _limits(own.dependencies)
                values.setdefault("editable", []).append(own.package)
        named = values.pop("requirements", None)
        if named and any(
            _same_file(named, f"{one.folder}/pyproject.toml") for one in values.get("editable", ())
        ):
            at.below("requirements").complain(
                _mark_of("requirements", node), f"`editable` reads `{named}` already; take one of them out"
            )
        elif named:
            found = requirements.read_file(
                folder / named, _mark_of("requirements", node), at.below("requirements")
            )
            wanted += found.wanted
            limits += _limits(found)
        wanted = requirements.without_twice((*wanted, *values.pop("packages", ())), at)
        return Sheet(values=values, wanted=wanted, limits=limits)

    def template(
        self, values: dict[str, Any], node: Keyed, folder: Path, at: Place, *, chain: tuple[Path, ...]
    ) -> Sheet | None:
        """Read the template that `values` name, if any; `chain` are the files that led here."""
        named = values.get("template")
        if named is None:
            return None
        at, mark = at.below("template"), _mark_of("template", node)
        path = template.find(named, folder, mark, at)
        if path is None:
            return None
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):
            real = path
        if real in chain:
            at.complain(mark, f"`{named}` inherits from itself")
            return None
        if len(chain) > MOST_TEMPLATES:
            at.complain(mark, f"more than {MOST_TEMPLATES} templates inherit from each other")
            return None
        text = requirements.read_text(path, mark, at, most=nodes.MOST_BYTES)
        if text is None:
            return None
        return self.sheet(text, str(path), path.parent, chain=(*chain, real), base=True)


def _same_file(one: str, other: str) -> bool:
    return posixpath.normpath(one) == posixpath.normpath(other)


def _limits(found: FromFile) -> tuple[tuple[SpecifierSet, Mark], ...]:
    if found.requires_python is None or found.requires_python_mark is None:
        return ()
    return ((found.requires_python, found.requires_python_mark),)


def _with_plain_index(values: dict[str, Any], node: Keyed, at: Place) -> dict[str, Any]:
    """Return `values` with the names in `index` normalised; complain of one that is there twice."""
    if "index" not in values:
        return values
    plain: dict[str, str] = {}
    for name, url in values["index"].items():
        if canonicalize_name(name) in plain:
            at.below("index").complain(_mark_of("index", node), f"`{name}` is there twice, in two spellings")
        plain[canonicalize_name(name)] = url
    return {**values, "index": plain}


def _choose_pair(values: dict[str, Any], node: Keyed) -> None:
    """Complete `debian` from `python`, where a release brings that, or the other way round.

    When one of them could not be read, nothing is said of the other.
    """
    debian, python = values.get("debian"), values.get("python")
    if debian and node.find("python") is None:
        values["python"] = DEBIAN_PYTHON[debian]
    elif python and node.find("debian") is None and (release := release_of(python)):
        values["debian"] = release


def _spec(sheet: Sheet, report: Report, path: Path | None) -> Spec | None:
    """Return the spec of a joined sheet; None when there are complaints, after the last ones have been made."""
    values = {key: value for key, value in sheet.values.items() if key != "schema"}
    python = values.get("python", Spec(name="any").python)
    for limit, mark in sheet.limits:
        possible = full_pythons(python, values.get("debian", Spec(name="any").debian))
        if not any(limit.contains(one) for one in possible):
            found = possible[0] if len(possible) == 1 else python
            use = pythons_allowed(limit)
            Place(report=report, path="requirements").complain(
                mark,
                f"`requires-python` ({limit}) leaves out python {found}; use {listed(use)}"
                if use
                else f"`requires-python` ({limit}) leaves out every Python there is: {listed(PYTHONS)}",
            )
    if (
        values.get("machines") and values.get("ports") and not report.complaints
    ):  # one of them is a template's
        where = Mark(file=str(path) if path else SPEC_NAME)
        Place(report=report, path="ports").complain(where, machines.PORTS_ELSEWHERE)
    packages = tuple(sorted(values.get("editable", ()), key=lambda package: package.name))
    where = Mark(file=str(path) if path else SPEC_NAME)
    share = editable.shares(packages, values.get("share"), where, Place(report=report, path="editable"))
    if report.complaints:
        return None
    return Spec(
        **{
            **values,
            "editable": packages,
            "share": share,
            # The project's own packages may need each other; no index is asked for them.
            "packages": tuple(
                wanted.text for wanted in sheet.wanted if wanted.name not in {one.name for one in packages}
            ),
            "machine": machines.shape_of(values.get("machine", {})),
            "machines": machines.members_of(values.get("machines", {}), values.get("machine", {})),
            "index": MappingProxyType(dict(values.get("index", {}))),
            "sdists": tuple(sorted(map(canonicalize_name, values.get("sdists", ())))),
            "env": MappingProxyType(dict(values.get("env", {}))),
            "notes": tuple(report.notes),
            "path": path,
        }
    )


def _mark_of(key: str, node: Keyed) -> Mark:
    value = node.find(key)
    return node.mark if value is None else value.mark
