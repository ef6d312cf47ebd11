"""First drafts of `mlvm.yaml`, for `mlvm init`.

A draft comes from a shipped template, from the folder's own list of requirements, or from the running Python. It is
short, says in comments what may be unclear, and is written by a YAML emitter, so that no name can break out of its
place. Every draft is read back before it is returned: whoever gets one can use it.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlvm.errors import SpecError
from mlvm.paths import SPEC_NAME, shipped
from mlvm.spec import imports, nodes
from mlvm.spec.complaints import Place, Report
from mlvm.spec.document import PYTHONS, Spec
from mlvm.spec.emit import dump
from mlvm.spec.nodes import Keyed, Scalar
from mlvm.spec.reader import loads
from mlvm.spec.scalars import nearest
from mlvm.spec.schema import SCHEMA_NAME
from mlvm.spec.table import pythons_for, release_of, valid_name
from mlvm.spec.template import shipped_templates

#: Tools of the host, or what is in every box: never pinned by a draft.
NOT_PINNED = frozenset({"ipykernel", "mlvm", "pip", "setuptools", "uv", "wheel"})

#: Folders that conda builds packages in.
CONDA_SITE = re.compile(r"file://[^\s\"]*/(?:croot|conda-bld|feedstock_root|tmp/build)/")

#: Where nothing says which.
DEFAULT_PYTHON, DEFAULT_DEBIAN = Spec(name="any").python, Spec(name="any").debian


def list_templates() -> list[tuple[str, str]]:
    """Return name and one line about each shipped template."""
    return [(name, _first_comment(path)) for name, path in shipped_templates().items()]


def draft_from_template(name: str, *, folder: Path) -> str:
    """Return the shipped template `name` with the name of `folder` in it; comments stay. Raises SpecError."""
    known = shipped_templates()
    if name not in known:
        guess = nearest(name, known)
        raise SpecError(
            f"there is no template called `{name}`",
            details=f"shipped templates: {', '.join(known)}",
            hint=f"mlvm init --template {guess or 'list'}",
        )
    text = known[name].read_text()
    return _checked(_modeline(folder) + _renamed(text, folder), folder)


def draft_from_folder(folder: Path) -> str:
    """Return a spec that names the folder's requirements.txt or pyproject.toml; without either, a minimal one.

    Raises SpecError when the file asks for what a lock cannot hold, with every such line.
    """
    found, python = _requirements_in(folder)
    if found is None:
        return draft_from_template("minimal", folder=folder)
    fields: dict[str, Any] = {**_head(folder, python), "requirements": found, "machine": {"memory": "2 GiB"}}
    return _checked(
        _emit(fields, [f"The packages are in {found}; mlvm.lock says which versions that means."], folder),
        folder,
    )


def draft_from_interpreter(folder: Path) -> tuple[str, tuple[str, ...]]:
    """Return a spec that pins what this Python has, and a line for each thing that could not be pinned.

    Where the folder's code imports installed packages, these are meant; else everything that is installed and not
    there only because something else requires it.
    """
    unpinned: list[str] = []
    modules = imports.imported_modules(folder)
    chosen = _imported(modules, folder, unpinned)
    why = "What the code here imports"
    if not chosen:
        unpinned.clear()
        chosen = imports.top_level_distributions()
        why = "What was installed"
    packages = list(_pins(chosen, unpinned))
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    python = running
    if running not in PYTHONS:
        python = DEFAULT_PYTHON
        unpinned.append(f"python {running}: no box can have it; {python} is used")
    comments = [f"{why}, pinned from Python {running} on {sys.platform}."]
    fields = {**_head(folder, python), "packages": packages, "machine": {"memory": "4 GiB"}}
    return _checked(_emit(fields, comments, folder), folder), tuple(unpinned)


def written(fields: dict[str, Any], comments: Sequence[str], folder: Path) -> str:
    """Return fields as the text of a spec for `folder`, read back. Raises SpecError."""
    return _checked(_emit(fields, comments, folder), folder)


def _head(folder: Path, python: str) -> dict[str, Any]:
    return {"name": _name_for(folder), "debian": release_of(python) or DEFAULT_DEBIAN, "python": python}


def _name_for(folder: Path) -> str:
    return valid_name(folder.absolute().name)


def _first_comment(path: Path) -> str:
    return path.read_text().partition("\n")[0].lstrip("# ").strip()


def _requirements_in(folder: Path) -> tuple[str | None, str]:
    """Return the file to name in the spec, and the Python it wants.

    requirements.txt comes first: where both are, it is what somebody installs from.
    """
    project = _project_table(folder / "pyproject.toml")
    python = DEFAULT_PYTHON
    try:
        wanted = SpecifierSet(str(project.get("requires-python", "")))
        fitting = pythons_for(wanted)
        python = DEFAULT_PYTHON if DEFAULT_PYTHON in fitting else (fitting or [DEFAULT_PYTHON])[0]
    except InvalidSpecifier:
        pass  # the reader says it better
    if (folder / "requirements.txt").is_file():
        return "requirements.txt", python
    return ("pyproject.toml" if project else None), python


def _project_table(path: Path) -> dict[str, Any]:
    """Return `[project]`; empty for a file that only configures tools. What is broken is told by the reader."""
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        return {"broken": True}
    return project if isinstance(project, dict) else {}


def _imported(modules: dict[str, Path], folder: Path, unpinned: list[str]) -> list[metadata.Distribution]:
    """Return the distributions that bring `modules`; say which modules nothing brings, or several do."""
    if not modules:
        return []
    brought = metadata.packages_distributions()
    names: dict[str, None] = {}
    for module, path in sorted(modules.items()):
        found = sorted({canonicalize_name(name) for name in brought.get(module, [])})
        if not found:
            unpinned.append(f"{module}: imported by {path.relative_to(folder)}, and not installed here")
        elif len(found) > 1:
            unpinned.append(f"{module}: brought by several packages, all are pinned: {', '.join(found)}")
        names.update(dict.fromkeys(found))
    return [metadata.distribution(name) for name in sorted(names)]


def _pins(chosen: Sequence[metadata.Distribution], unpinned: list[str]) -> Iterator[str]:
    for found in chosen:
        name = canonicalize_name(found.name)
        if name in NOT_PINNED:
            continue
        if origin := origin_of(found.read_text("direct_url.json")):
            unpinned.append(f"{name}: installed from {origin}, not from an index")
            continue
        try:
            version = Version(found.version)
        except (InvalidVersion, TypeError):
            unpinned.append(f"{name}: `{found.version}` is not a version")
            continue
        if version.local:
            unpinned.append(f"{name}: pinned as {version.public}; PyPI has no {version}")
        yield f"{name}=={version.public}"


def origin_of(said: str | None) -> str | None:
    """Return where a distribution came from when that was no index (PEP 610); `said` is its direct_url.json.

    conda leaves its own building site there, which says nothing: its packages are releases.
    """
    if said is None or CONDA_SITE.search(said):
        return None
    try:
        document = json.loads(said)
        kind = (
            "a folder"
            if "dir_info" in document
            else "version control"
            if "vcs_info" in document
            else "a file"
        )
    except (ValueError, TypeError):
        return "somewhere"
    return kind


def _renamed(text: str, folder: Path) -> str:
    """Return a template's text with another name: the place is found by the parser, the name written by the emitter."""
    report = Report()
    node = nodes.parse(text, SPEC_NAME, at=Place(report=report))
    report.check(SPEC_NAME)
    assert isinstance(node, Keyed)
    old = node.find("name")
    assert isinstance(old, Scalar)
    lines = text.splitlines(keepends=True)
    line = lines[old.mark.line - 1]
    start = old.mark.column - 1
    end = start + len(old.text) + (0 if old.plain else 2)
    lines[old.mark.line - 1] = line[:start] + _scalar_text(_name_for(folder)) + line[end:]
    return "".join(lines)


def _scalar_text(text: str) -> str:
    return dump({"name": text}).removeprefix("name: ").rstrip("\n")


def _emit(fields: dict[str, Any], comments: Sequence[str], folder: Path) -> str:
    said = "".join(f"# {line}\n" for line in comments)
    return _modeline(folder) + said + dump(fields)


def _modeline(folder: Path) -> str:
    """Return the comment that names the schema to editors, where a path to it will be right for everybody.

    That is so in a clone of mlvm only: an installed copy lies elsewhere for everyone.
    """
    schema = (shipped("templates") / SCHEMA_NAME).absolute()
    root = schema.parent.parent
    here = folder.absolute()
    if not (root / "pyproject.toml").is_file() or not here.is_relative_to(root):
        return ""
    up = "../" * len(here.relative_to(root).parts)
    return f"# yaml-language-server: $schema={up}{schema.relative_to(root).as_posix()}\n"


def _checked(text: str, folder: Path) -> str:
    """Return `text` if the reader takes it as the spec of `folder`."""
    try:
        loads(text, path=folder / SPEC_NAME)
    except SpecError as refused:
        raise SpecError(
            "no spec can be made from this folder yet",
            details=refused.details,
            hint="mend that, or start with `mlvm init --template minimal`",
        ) from None
    return text
