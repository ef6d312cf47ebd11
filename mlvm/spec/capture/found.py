"""What was found, and the spec that comes of it.

Whatever the source, the same things cannot be taken as they are: tools of the host, what the box's own kernel is made
of (an old notebook's ipykernel cannot encrypt), versions that only another index has, a Python that no box has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from mlvm.spec import draft
from mlvm.spec.complaints import shown
from mlvm.spec.document import PYTHONS
from mlvm.spec.table import pythons_for, release_of, valid_name

#: What ipykernel and its shell are made of: the box has its own, newer than most pins.
KERNEL_OWN = frozenset(
    [
        "appnope",
        "asttokens",
        "backcall",
        "comm",
        "debugpy",
        "executing",
        "ipykernel",
        "ipython",
        "ipython-genutils",
        "ipython-pygments-lexers",
        "jedi",
        "jupyter-client",
        "jupyter-core",
        "matplotlib-inline",
        "nest-asyncio",
        "nest-asyncio2",
        "parso",
        "pexpect",
        "pickleshare",
        "prompt-toolkit",
        "ptyprocess",
        "pure-eval",
        "pyzmq",
        "stack-data",
        "tornado",
        "traitlets",
        "wcwidth",
    ]
)
#: Packages that exist for other systems than the guest's.
ELSEWHERE = frozenset({"appnope", "pywin32", "pywinpty", "pywin32-ctypes", "pyreadline3", "windows-curses"})
#: Comments at the head of a spec that say what was left out; a command line shows all.
MOST_COMMENTS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a source says: requirements as texts, what cannot be taken (a line each), and the Python it was for.

    `python` is a version such as "3.8.10", `requires` a range; either may be missing.
    """

    what: str
    packages: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    python: str = ""
    requires: str = ""
    apt: tuple[str, ...] = ()
    name: str = ""


def draft_of(found: Found, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Return the text of a spec for `folder`, and a line for each thing that is not pinned. Raises SpecError."""
    left = list(found.left)
    packages = list(_tidy(found.packages, left))
    python = _python(found, left)
    comments = [f"Captured from {shown(found.what, 100)} by `mlvm capture`."]
    if left:
        comments.append("Not pinned:")
        comments += [f"  {shown(line, 160)}" for line in left[:MOST_COMMENTS]]
        if len(left) > MOST_COMMENTS:
            comments.append(f"  ... and {len(left) - MOST_COMMENTS} more")
    fields = {
        "name": valid_name(found.name or folder.absolute().name),
        "debian": release_of(python) or draft.DEFAULT_DEBIAN,
        "python": python,
        "packages": packages,
        **({"apt": list(found.apt)} if found.apt else {}),
        "machine": {"memory": "4 GiB"},
    }
    return draft.written(fields, comments, folder), tuple(left)


def _tidy(packages: Iterable[str], left: list[str]) -> Iterator[str]:
    """Yield each package once, as the index of PyPI can have it."""
    seen: dict[str, dict[str, str]] = {}
    tools, own, free = [], [], []
    for text in packages:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            left.append(f"`{shown(text)}` is not a requirement")
            continue
        name = canonicalize_name(wanted.name)
        wanted.name = name
        marker = str(wanted.marker or "")
        before = seen.setdefault(name, {})
        if before and (not marker or "" in before or marker in before):
            if str(wanted) not in before.values():
                left.append(f"`{shown(str(wanted))}`: `{shown(next(iter(before.values())))}` came before it")
            continue
        if name in ELSEWHERE:
            left.append(f"{name}: it is for another system than the guest's")
        elif name in draft.NOT_PINNED and name != "ipykernel":
            tools.append(name)
        elif name in KERNEL_OWN and wanted.specifier:
            own.append(name)
        else:
            wanted.specifier = _public(wanted, left)
            free += [] if wanted.specifier else [name]
            before[marker] = str(wanted)
            yield str(wanted)
    if tools:
        left.append(f"{', '.join(tools)}: tools of the host, not what runs")
    if own:
        left.append(f"{', '.join(own)}: part of the kernel, of which each box has its own")
    if free:
        left.append(f"{', '.join(free)}: no version is said, so the lock takes the newest that fit")


def _public(wanted: Requirement, left: list[str]) -> SpecifierSet:
    """Return the versions that are wanted, without local parts such as `+cu121`, which PyPI does not have."""
    parts = []
    for one in wanted.specifier:
        version = one.version
        if "+" in version and one.operator == "==":
            public = version.partition("+")[0]
            left.append(f"{wanted.name}: pinned as {public}; PyPI has no {version}")
            version = public
        parts.append(f"{one.operator}{version}")
    return SpecifierSet(",".join(sorted(parts)))


def _python(found: Found, left: list[str]) -> str:
    """Return the Python of a box that is nearest to the one found, and say when it is another."""
    default = draft.DEFAULT_PYTHON
    if found.python:
        minor = ".".join(found.python.split(".")[:2])
        if minor in PYTHONS:
            return minor
        there = [python for python in PYTHONS if not python.endswith("t")]
        nearest = min(there, key=lambda one: (abs(_minor(one) - _minor(minor)), _minor(one)))
        left.append(
            f"python {minor}: no box has it; {nearest} is used, for which old pins may have no wheels"
        )
        return nearest
    if found.requires:
        try:
            wanted = SpecifierSet(found.requires)
        except InvalidSpecifier:
            left.append(f"python `{shown(found.requires)}` is not a range of versions; {default} is used")
            return default
        fitting = pythons_for(wanted)
        if not fitting:
            left.append(f"python {found.requires}: no box has one of these; {default} is used")
        return default if default in fitting or not fitting else fitting[0]
    left.append(f"python: no version is said; {default} is used")
    return default


def _minor(version: str) -> int:
    try:
        parsed = Version(version)
    except InvalidVersion:
        return 0
    return parsed.major * 100 + parsed.minor
