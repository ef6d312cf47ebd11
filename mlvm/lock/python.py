"""Resolve the Python part of a lock with uv, for the guest's Python and C library, not the host's.

uv writes a PEP 751 document with every wheel that might do. We keep the one the guest will use (the best by
`packaging.tags`): a lock is for one box, and what it does not name cannot be installed by mistake. What an earlier
lock has is given to uv as its own earlier output, so that it keeps what fits.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import tomli_w
from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import BuildTag, parse_wheel_filename

from mlvm.errors import ProgramError, ResolveError
from mlvm.process import run

#: Minor version of the C library of each release: the newest manylinux wheel that loads there.
GLIBC_MINOR = {"bullseye": 31, "bookworm": 36, "trixie": 41}
#: The newest C library that uv knows a platform name for; wheels for still newer ones are rare.
UV_GLIBC_MINOR = 40
#: The exact Python of each release. Debian keeps it for the life of a release, with fixes in its own version.
PYTHON_FULL = {"bullseye": "3.9.2", "bookworm": "3.11.2", "trixie": "3.13.5"}

#: A file of a package.
File = TypeVar("File", PackageWheel, PackageSdist)

#: Always there: what makes a box a kernel.
ALWAYS = ("ipykernel",)

#: Settings of the host's own Python tools that must not leak into a lock; where the user wants uv to look may.
DROPPED = re.compile(r"UV_|PIP_|PYTHON|VIRTUAL_ENV|CONDA_")
KEPT = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|INDEX_\w+_(USERNAME|PASSWORD)|KEYRING_PROVIDER"
    r"|OFFLINE|NATIVE_TLS|SYSTEM_CERTS|HTTP_TIMEOUT|HTTP_RETRIES)"
)

#: What uv puts before its lines: a drawn frame, "error:", "cause:".
FRAME = re.compile(r"^[\s\u00d7\u2500-\u257f\u25b6]*(?:(?:error|cause|Caused by):\s*)?")

#: What the requirements are called where they have to be a project.
PROJECT = "the-spec"
#: A user and a password in a URL.
SECRET = re.compile(r"(?<=://)[^/@\s]+@")

#: uv speaks to who typed the requirements; here they come from a spec.
WORDS = {
    "your requirements": "the spec's requirements",
    "you require": "the spec requires",
    "You require": "The spec requires",
    f"{PROJECT} depends on": "the spec requires",
    PROJECT: "the spec",
}


def resolve_python(
    requirements: Iterable[str],
    *,
    python: str,
    release: str,
    cache_folder: Path,
    full: str | None = None,
    previous: Pylock | None = None,
    upgrade: Collection[str] = (),
    constraints: Iterable[str] = (),
    index: Mapping[str, str] = MappingProxyType({}),
    always: Iterable[str] = ALWAYS,
    sdists: Collection[str] = (),
    metadata: Iterable[Mapping[str, Any]] = (),
) -> Pylock:
    """Return a PEP 751 document for `requirements` (and ipykernel), one wheel a package.

    `constraints` are requirements on whatever is brought along, and bring nothing themselves; `index` is where some of
    the required packages come from instead of PyPI. What is protected there, uv finds the password of by itself.
    `full` is the exact version of a Python that is not the release's own.
    Packages in `sdists` come as sources, without a wheel; `metadata` must say of each what uv would run it to find out
    (uv's own form: `name`, `version` unless it holds for any, `requires-dist`): nothing is ever run.
    Versions in `previous` are kept while they fit, but for those in `upgrade`. Raises ResolveError in uv's words.
    """
    with tempfile.TemporaryDirectory(prefix="mlvm-lock-") as name:
        folder = Path(name)
        source = _source(folder, (*requirements, *always), python=python, index=index)
        (folder / "uv.toml").write_text(
            tomli_w.dumps({"dependency-metadata": [dict(one) for one in metadata]})
        )
        (folder / "constraints.txt").write_text("".join(f"{line}\n" for line in constraints))
        output = folder / "pylock.toml"
        if previous is not None:
            output.write_text(tomli_w.dumps(_without_built(previous).to_dict()))
        command: list[str | Path] = [
            _uv(), "pip", "compile", source, "--constraints", "constraints.txt",
            "--format", "pylock.toml", "--output-file", output,
            "--python-version", full or PYTHON_FULL[release],
            *_platform(python, release),
            "--python", sys.executable,  # only to have one; it is never looked at for versions
            "--only-binary", ":all:", "--no-header", "--no-annotate", "--quiet", "--color", "never",
            "--config-file", "uv.toml", "--cache-dir", cache_folder,
            *(part for name in sorted(sdists) for part in ("--no-binary", name)),
            *(part for name in sorted(upgrade) for part in ("--upgrade-package", name)),
        ]  # fmt: skip
        done = run(command, env=_environment(), cwd=folder, check=False, timeout=600)
        if done.returncode != 0:
            raise _explained(
                done.stderr.decode(errors="replace"), python=python, release=release, index=index
            )
        document = tomllib.loads(output.read_text())
    return cut_down(Pylock.from_dict(document), python=python, release=release, sdists=sdists)


def _without_built(pylock: Pylock) -> Pylock:
    """Return the document as uv would have written it: wheels that were built are no business of uv's."""
    return replace(
        pylock,
        packages=[replace(one, wheels=None) if one.sdist else one for one in pylock.packages],
    )


def _platform(python: str, release: str) -> tuple[str, ...]:
    """Return uv's option for the guest: of every platform for a free-threaded Python, which uv has no name for."""
    if python.endswith("t"):
        return ("--universal",)
    return "--python-platform", f"x86_64-manylinux_2_{min(GLIBC_MINOR[release], UV_GLIBC_MINOR)}"


def _source(folder: Path, requirements: Iterable[str], *, python: str, index: Mapping[str, str]) -> str:
    """Write what uv is to resolve, and return the file's name.

    Only a project can say which package comes from which index; that nothing else does is `explicit`.
    """
    if not index:
        (folder / "requirements.in").write_text("".join(f"{line}\n" for line in requirements))
        return "requirements.in"
    project = {
        "name": PROJECT,
        "version": "0",
        "requires-python": f">={python.rstrip('t')}",
        "dependencies": list(requirements),
    }
    indexes = [{"name": name, "url": url, "explicit": True} for name, url in sorted(index.items())]
    sources = {name: {"index": name} for name in sorted(index)}
    document = {"project": project, "tool": {"uv": {"index": indexes, "sources": sources}}}
    (folder / "pyproject.toml").write_text(tomli_w.dumps(document))
    return "pyproject.toml"


def cut_down(pylock: Pylock, *, python: str, release: str, sdists: Collection[str] = ()) -> Pylock:
    """Return the document with only the best wheel of each package, or its sdist if it is one of `sdists`.

    Raises ResolveError for one that does not have that.
    """
    packages = [
        _source_only(package)
        if package.name in sdists
        else replace(
            package,
            wheels=[_nameless(best_wheel(package, python=python, release=release))],
            sdist=None,
            marker=None,
        )
        for package in sorted(pylock.packages, key=lambda package: package.name)
        if package.marker is None or package.marker.evaluate(guest_environment(python))
    ]
    return replace(pylock, packages=packages, created_by="mlvm", environments=None)


def guest_environment(python: str) -> dict[str, str]:
    """Return what markers of requirements are asked for, but for the last number of the Python."""
    return {
        "extra": "",
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_version": python.rstrip("t"),
        "sys_platform": "linux",
    }


def _nameless(file: File) -> File:
    """Return a wheel or sdist with a URL that has no user and no password in it: a lock is for everybody."""
    parts = urlsplit(file.url or "")
    if parts.username is None and parts.password is None:
        return file
    return replace(file, url=urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])))


def _source_only(package: Package) -> Package:
    """Return the package with its sdist alone. Raises ResolveError when it has none that everybody can fetch."""
    sdist = package.sdist
    if sdist is None or "sha256" not in sdist.hashes:
        raise ResolveError(
            f"`{package.name}` {package.version} has no sdist" + " with a SHA-256 digest" * bool(sdist),
            hint="take it out of `sdists`, or ask for another version of it",
        )
    _check_reachable(package, sdist)
    return replace(package, wheels=None, sdist=_nameless(sdist), marker=None)


def _check_reachable(package: Package, file: PackageWheel | PackageSdist) -> None:
    if file.url is None or urlsplit(file.url).scheme not in {"http", "https", "file"}:
        raise ResolveError(
            f"`{package.name}` {package.version} is at a place that nobody else can reach",
            details=str(file.url or file.path),
            hint="take it from a package index",
        )


def best_wheel(package: Package, *, python: str, release: str) -> PackageWheel:
    """Return the wheel of `package` that fits the guest best: by tags, then by the highest build number."""
    wheels = package.wheels or ()
    ranks = _ranks(python, release)
    fitting: list[tuple[int, BuildTag, str, PackageWheel]] = []
    for wheel in wheels:
        _, _, build, tags = parse_wheel_filename(wheel.filename)
        if found := [ranks[tag] for tag in tags if tag in ranks]:
            fitting.append((-min(found), build, wheel.filename, wheel))
    if not fitting:
        names = [wheel.filename for wheel in wheels]
        raise ResolveError(
            f"`{package.name}` {package.version} has no wheel for Python {python} on Debian {release}",
            details="wheels: "
            + (", ".join(name for name in names if "x86_64" in name or "any" in name) or "none"),
            hint=f"ask for another version of it, or another Python; {_from_source(str(package.name))}",
        )
    wheel = max(fitting, key=lambda entry: entry[:3])[3]
    _check_reachable(package, wheel)
    return wheel


@cache
def _ranks(python: str, release: str) -> dict[Tag, int]:
    """Every wheel tag the guest accepts, with its rank: 0 is best."""
    major, minor = (int(part) for part in python.rstrip("t").split("."))
    abi = f"cp{python.replace('.', '')}"  # for a free-threaded one, "t" and all, and then no abi3 either
    platforms = [f"manylinux_2_{glibc}_x86_64" for glibc in range(GLIBC_MINOR[release], 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]
    tags = [
        *cpython_tags((major, minor), [abi], platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _uv() -> str:
    """Return uv's executable, which its Python package brings along."""
    import uv  # noqa: PLC0415  (only resolving needs it)

    try:
        return uv.find_uv_bin()
    except FileNotFoundError:
        raise ProgramError(
            "the program of the Python package `uv` is missing", hint="pip install uv"
        ) from None


def _environment() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if KEPT.fullmatch(name) or not DROPPED.match(name)
    }


def _explained(
    said: str, *, python: str, release: str, index: Mapping[str, str] = MappingProxyType({})
) -> ResolveError:
    """Return uv's explanation without its frame and its options, and a hint for the usual causes."""
    lines = []
    for line in SECRET.sub("", re.sub(r"\x1b\[[0-9;]*m", "", said)).splitlines():
        bare = FRAME.sub("", line).strip()
        if bare and "--" not in bare and not bare.startswith(("warning:", "No solution found")):
            for uvs, ours in WORDS.items():
                bare = bare.replace(uvs, ours)
            lines.append(bare)
    return ResolveError(
        "no set of Python packages fits the spec",
        details="\n".join(lines)[:3000],
        hint=_hint(" ".join(lines), python=python, release=release, index=index),
    )


def _from_source(name: str) -> str:
    """Say how to have a package that has no wheel: only when asked for a stranger's build is run."""
    return f"if it has sources, `sdists: [{name}]` in mlvm.yaml builds it in a throw-away machine"


def _hint(said: str, *, python: str, release: str, index: Mapping[str, str]) -> str:
    if re.search(r"dns error|[Ff]ailed to fetch|error sending request|network (was|is) disabled", said):
        return "check the network"
    if found := re.search(r"(\S+) was not found in the package registry", said):
        if found[1] in index:
            return f"look at {index[found[1]]}/{found[1]}/; if it wants a password, put it into your netrc"
        return f"check the spelling of `{found[1]}`"
    if found := re.search(r"([A-Za-z0-9][\w.-]*)(?:[<>=!~]\S*)? ha(?:s|ve) no (?:usable )?wheels", said):
        return (
            f"`{found[1]}` has no wheel that Python {python} on Debian {release} can use;"
            f" ask for another version of it, or another Python; {_from_source(found[1])}"
        )
    return "loosen one of the requirements named above"
