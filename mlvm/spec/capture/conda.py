"""conda's environment.yml, as written by hand or by `conda env export`.

conda packages anything, PyPI only Python. What is no Python package there is told by its name, or by its build: that
of a Python package says for which Python it was built. Programs that Debian has too become `apt` packages; what is
left out is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlvm.errors import SpecError
from mlvm.spec import requirements
from mlvm.spec.capture import names
from mlvm.spec.capture.files import lenient
from mlvm.spec.capture.found import Found
from mlvm.spec.complaints import Mark, Place, Report, shown

MOST_ENTRIES = 5000

_SPEC = re.compile(
    r"(?:(?P<channel>[\w./:-]+)::)?(?P<name>[A-Za-z0-9_.-]+)\s*"
    r"(?P<version>(?:[=<>!~]=?|\s)\s*[^=\s][^=]*(?:,.*)?)?(?:=(?P<build>[^=\s]+))?"
)


@dataclass(kw_only=True, slots=True)
class Gathered:
    """What has been read so far."""

    packages: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    apt: list[str] = field(default_factory=list)
    conda_only: list[str] = field(default_factory=list)
    python: str = ""


def from_environment(path: Path) -> Found:
    """Read an environment.yml. Raises SpecError for what is none."""
    document = _document(path)
    gathered = Gathered()
    entries = document.get("dependencies")
    if not isinstance(entries, list) or len(entries) > MOST_ENTRIES:
        raise SpecError(f"`{path}` has no list of `dependencies`, so it is no environment of conda's")
    for entry in entries:
        if isinstance(entry, str):
            take(entry, gathered)
        elif isinstance(entry, dict) and isinstance(entry.get("pip"), list):
            _take_pip([str(line) for line in entry["pip"]], path, gathered)
        elif entry is not None:
            gathered.left.append(f"`{shown(str(entry))}`: not understood")
    if gathered.conda_only:
        listed = ", ".join(dict.fromkeys(gathered.conda_only))
        gathered.left.append(f"only conda has these, or they are no Python packages: {listed}")
    name = str(document.get("name") or "")
    return Found(
        what=path.name,
        packages=tuple(gathered.packages),
        left=tuple(gathered.left),
        python=gathered.python,
        apt=tuple(dict.fromkeys(gathered.apt)),
        name="" if name in {"", "base", "root"} else name,
    )


def take(entry: str, gathered: Gathered) -> None:
    """Take one of conda's requirements: `numpy=1.26`, `conda-forge::numpy>=1.2,<2`, `numpy=1.26.4=py311h64a7726_0`."""
    found = _SPEC.fullmatch(entry.strip().partition("#")[0].partition("[")[0].strip())
    if found is None:
        gathered.left.append(f"`{shown(entry)}`: not understood")
        return
    name, build = found["name"].lower(), found["build"] or ""
    version = " ".join((found["version"] or "").split())
    if name == "python":
        plain = re.search(r"\d+(?:\.\d+)*", version)
        gathered.python = plain[0] if plain else ""
    elif name in names.CUDA:
        digits = re.search(r"\d+\.\d+", version)
        wish = f'`cuda: {{version: "{digits[0]}"}}`' if digits else "`cuda`"
        gathered.left.append(f"{name}: {wish} in the spec asks for CUDA (docs/cuda.md)")
    elif name in names.FROM_DEBIAN:
        gathered.apt.append(names.FROM_DEBIAN[name])
        if version:
            gathered.left.append(f"{name}: Debian's version is taken, not {version.lstrip('= ')}")
    elif _no_python(name, build):
        gathered.conda_only.append(name)
    else:
        name = names.FROM_CONDA.get(name, name)
        if (wanted := specifier(version, exact=bool(build))) is None:
            gathered.left.append(f"{name}: `{shown(version)}` cannot be said otherwise than conda does")
            wanted = ""
        gathered.packages.append(f"{canonicalize_name(name)}{wanted}")


def specifier(version: str, *, exact: bool = False) -> str | None:
    """Return conda's constraint as a specifier: `=1.26` is `==1.26.*`; None for what there is no specifier for."""
    text = version.replace(" ", "")
    if text in {"", "*", "=*"}:
        return ""
    if "|" in text:
        return None
    parts = []
    for part in text.split(","):
        found = re.fullmatch(r"(==|>=|<=|!=|~=|>|<|=)?v?([^=<>!~]+)", part)
        if found is None or not _valid(found[2]):
            return None
        operator, number = found[1] or "=", found[2]
        if operator == "=":
            fuzzy = not exact and number.count(".") < 2 and not number.endswith("*")
            operator, number = "==", f"{number}.*" if fuzzy else number
        if number.endswith("*"):
            number = number.rstrip("*").rstrip(".") + ".*"
            if operator not in {"==", "!="}:
                number = number.removesuffix(".*")
        parts.append(operator + number)
    return ",".join(parts)


def _valid(number: str) -> bool:
    try:
        Version(number.rstrip("*").rstrip("."))
    except InvalidVersion:
        return False
    return True


def _no_python(name: str, build: str) -> bool:
    """Tell whether one of conda's packages is no Python package."""
    if name in names.CONDA_ONLY or names.FROM_CONDA.get(name) == "":
        return True
    if name in names.FROM_CONDA:
        return False
    named = name.startswith(("lib", "_", "r-", "xorg-", "font", "gcc_", "gxx_", "gst", "nvidia-"))
    return named or (bool(build) and re.search(r"(?:^|_)py", build) is None)


def _take_pip(lines: list[str], path: Path, gathered: Gathered) -> None:
    report = Report()
    found = requirements.read_lines(lines, path, Place(report=report))
    lost, left = lenient(report, path)
    gathered.packages += [*(one.text for one in found), *lost]
    gathered.left += [re.sub(r"^[^:]*:\d+", "pip", line) for line in left]


def _document(path: Path) -> dict[str, Any]:
    report = Report()
    text = requirements.read_text(
        path, Mark(file=str(path)), Place(report=report), most=requirements.MOST_BYTES
    )
    report.check(str(path))
    try:
        document = yaml.safe_load(text or "")
    except (yaml.YAMLError, ValueError, RecursionError) as broken:
        raise SpecError(f"`{path}` cannot be read as YAML", details=str(broken)) from None
    if not isinstance(document, dict):
        raise SpecError(f"`{path}` is no environment of conda's")
    return document
