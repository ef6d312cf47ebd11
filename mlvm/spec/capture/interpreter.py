"""An interpreter: its version and every distribution it has, exactly as they are.

The interpreter itself is asked, by a small program that it runs: it may be of another version, or conda's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlvm import process
from mlvm.errors import SpecError
from mlvm.spec.capture.found import Found
from mlvm.spec.complaints import shown
from mlvm.spec.draft import NOT_PINNED, origin_of

#: Seconds that an interpreter has to list what it has.
DEADLINE = 120.0


def from_interpreter(python: str) -> Found:
    """Ask interpreter `python` (a path or a name on PATH). Raises ProgramError, or SpecError for what is none."""
    program = Path(__file__).with_name("interpreter_program.py").read_text()
    done = process.run([python, "-c", program], timeout=DEADLINE)
    try:
        said = json.loads(done.stdout)
        version, listed = str(said["python"]), list(said["distributions"])
    except (ValueError, KeyError, TypeError):
        raise SpecError(f"`{python}` is no Python 3.8 or later that says what it has") from None
    left: list[str] = []
    if said.get("implementation") != "cpython":
        left.append(f"{said.get('implementation')}: boxes run CPython")
    if not str(said.get("platform", "")).startswith("linux"):
        left.append(f"it runs on {said.get('platform')}: a version may be missing for Linux")
    packages = {
        name: text for one in listed if (text := _pin(one, left)) for name in [text.partition("==")[0]]
    }
    return Found(
        what=f"{python} (Python {version})",
        packages=tuple(packages[name] for name in sorted(packages)),
        left=tuple(left),
        python=version,
    )


def _pin(one: dict[str, Any], left: list[str]) -> str | None:
    name = canonicalize_name(str(one["name"]))
    if name in NOT_PINNED and name != "ipykernel":
        return None
    if origin := origin_of(one.get("origin")):
        left.append(f"{name}: installed from {origin}, not from an index")
        return None
    if one.get("folder"):
        left.append(f"{name}: it lies in {shown(str(one['folder']))}, and is no installed release")
        return None
    try:
        version = Version(str(one["version"]))
    except InvalidVersion:
        left.append(f"{name}: `{shown(str(one['version']))}` is not a version")
        return None
    return f"{name}=={version}"
