"""What a folder imports, and what this Python has installed: the facts behind `mlvm init --from-env`.

Code is parsed, never run, and magics of notebooks are passed over. Folders that hold other people's code (virtual
environments, hidden folders, node_modules) are not looked into.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

MOST_FILES = 2000
MOST_BYTES = 4 * 1024 * 1024

_FOREIGN = frozenset({"node_modules", "site-packages", "__pycache__", "build", "dist", "venv", "env"})


#: Magics whose cells are Python all the same.
_PYTHON_MAGICS = frozenset({"time", "timeit", "capture", "prun", "mlvm", "local"})


def imported_modules(folder: Path) -> dict[str, Path]:
    """Return the foreign modules that the folder's code imports: top-level name to the first file that does."""
    files = sorted(_sources(folder))
    own = {path.stem for path in files} | {path.parent.name for path in files if path.name == "__init__.py"}
    found: dict[str, Path] = {}
    for path in files:
        for name in _modules_of(path):
            if name not in own and name not in sys.stdlib_module_names:
                found.setdefault(name, path)
    return found


def top_level_distributions() -> list[metadata.Distribution]:
    """Return what is installed here and required by nothing else that is, sorted by name."""
    installed = {
        canonicalize_name(found.name): found
        for found in reversed(list(metadata.distributions()))
        if _is_named(found)
    }
    required = {name for found in installed.values() for name in _required_by(found)}
    return [installed[name] for name in sorted(installed.keys() - required)]


def _is_named(found: metadata.Distribution) -> bool:
    """A half-removed distribution leaves a folder without metadata, and then has no name."""
    try:
        return bool(found.metadata["Name"])
    except (KeyError, TypeError):
        return False


def _required_by(found: metadata.Distribution) -> Iterator[str]:
    for line in found.requires or []:
        try:
            wanted = Requirement(line)
            applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        except (InvalidRequirement, UndefinedEnvironmentName):
            continue
        if applies and canonicalize_name(wanted.name) != canonicalize_name(found.name):
            yield canonicalize_name(wanted.name)


def _sources(folder: Path) -> Iterator[Path]:
    count = 0
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _FOREIGN and not (here / name / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            path = here / name
            if path.suffix in {".py", ".ipynb"} and path.is_file() and path.stat().st_size <= MOST_BYTES:
                count += 1
                if count > MOST_FILES:
                    return
                yield path


def _modules_of(path: Path) -> Iterator[str]:
    for code in _code_of(path):
        yield from modules_in(code)


def modules_in(code: str) -> Iterator[str]:
    """Yield the top-level name of each module that a text of Python imports; none if it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their escapes are not our business
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def python_of(cell: str) -> str:
    """Return the Python of a cell, with `pass` for magics; empty for a cell in another language."""
    first, _, rest = cell.lstrip().partition("\n")
    if first.startswith("%%"):
        cell = rest if first[2:].split(" ", 1)[0].strip() in _PYTHON_MAGICS else ""
    return re.sub(r"(?m)^(\s*)[%!?].*$", r"\1pass", cell)


def _code_of(path: Path) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return
    if path.suffix == ".py":
        yield text
        return
    try:
        cells = json.loads(text)["cells"]
        sources = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    for source in sources:
        yield python_of("".join(source) if isinstance(source, list) else str(source))
