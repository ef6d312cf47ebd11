"""Pythons that a Debian release does not bring: builds that run on any, pinned by place and digest.

The table is dated data, made by `tools/interpreters.py` and shipped as `interpreters.json`; a newer one in the user's
data folder wins. A lock copies its row, so that an old lock means the same after the table has moved on.
`MLVM_PYTHON_MIRROR` (what stands before the date in a place) is tried first, and never written down.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlvm.download import Wanted
from mlvm.errors import LockError, ResolveError
from mlvm.lock.document import Interpreter
from mlvm.paths import Home
from mlvm.spec.document import PYTHONS

NAME = "interpreters.json"
SHIPPED = Path(__file__).parent / NAME
BASE = "https://github.com/astral-sh/python-build-standalone/releases/download"
MOST_BYTES = 1 << 20
_MIRROR = re.compile(r"(?:https?|file)://[!-~]+")
_ROW = {
    "version": re.compile(r"3\.[0-9]{1,2}\.[0-9]{1,3}"),
    "path": re.compile(r"(?!\.)[A-Za-z0-9+._%-]+(?:/(?!\.)[A-Za-z0-9+._%-]+)*\.tar\.gz"),
    "sha256": re.compile(r"[0-9a-f]{64}"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreters:
    """A whole table: what can be had, by "3.12" or "3.14t", where it is from and as of when."""

    date: str
    source: str
    path: Path
    pythons: Mapping[str, Interpreter]

    def of(self, python: str) -> Interpreter:
        """Return the build of a Python. Raises ResolveError that names those there are."""
        if (found := self.pythons.get(python)) is None:
            raise ResolveError(
                f"no build of Python {python} is known here (table of {self.date})",
                hint=f"use one of {', '.join(self.pythons)}, or a Debian release's own",
            )
        return found


def find(home: Home) -> Interpreters:
    """Return the user's table where it is newer, else the shipped one. Raises LockError."""
    shipped = load(SHIPPED)
    own = home.data / NAME
    if not own.is_file():
        return shipped
    found = load(own)
    return found if found.date > shipped.date else shipped


def load(path: Path) -> Interpreters:
    """Read a table. Raises LockError for what is none."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
        pythons = {python: _row(python, row) for python, row in document["pythons"].items()}
        date, source = document["date"], document["source"]
        if not isinstance(source, str) or not re.fullmatch(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}", date):
            raise ValueError("it has no date and source")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as broken:
        raise LockError(
            f"`{path}` is not a table of Pythons",
            details=str(broken)[:300],
            hint="remove it: mlvm ships one of its own",
        ) from None
    return Interpreters(date=date, source=source, path=path, pythons=pythons)


def _row(python: str, row: Mapping[str, str]) -> Interpreter:
    if python not in PYTHONS:
        raise ValueError(f"`{python}` is no Python known here")
    for key, pattern in _ROW.items():
        if not pattern.fullmatch(row[key]):
            raise ValueError(f"`{key}` of Python {python} is `{row[key]}`")
    if not row["version"].startswith(python.rstrip("t") + "."):
        raise ValueError(f"Python {python} is said to be {row['version']}")
    return Interpreter(version=row["version"], url=f"{BASE}/{row['path']}", sha256=row["sha256"])


def wanted_interpreter(interpreter: Interpreter | None) -> list[Wanted]:
    """Return what to fetch for a lock's own Python, with its places. Raises ResolveError for a mirror that is none."""
    if interpreter is None:
        return []
    mirror = os.environ.get("MLVM_PYTHON_MIRROR", "").rstrip("/")
    if mirror and not _MIRROR.fullmatch(mirror):
        raise ResolveError(
            f"MLVM_PYTHON_MIRROR is `{mirror}`, which is not the URL of a mirror",
            hint=f"it is what stands in place of {BASE}",
        )
    urls = [interpreter.url]
    if mirror and interpreter.url.startswith(BASE):
        urls.insert(0, mirror + interpreter.url.removeprefix(BASE))
    return [
        Wanted(name=f"Python {interpreter.version}", urls=tuple(urls), sha256=interpreter.sha256, size=None)
    ]
