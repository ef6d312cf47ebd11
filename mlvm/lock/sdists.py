"""Packages that are built from their sources: what the archive says of its build, and the lock's part of it.

A sdist is a program of a stranger's that makes a wheel. Here it is only read: `pyproject.toml` is data, and whatever
would run it (PEP 517 calls it the backend) is for a throw-away machine, behind `Maker`. What the build needs is
resolved and pinned like everything else, so that another machine can make the same wheel from the same lock.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from packaging.pylock import Package, PackageWheel, Pylock
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mlvm.errors import ResolveError
from mlvm.lock.document import Build, Lock

#: What PEP 518 and 517 say of an archive that says nothing itself.
DEFAULT_REQUIRES = ("setuptools>=40.8.0",)
DEFAULT_BACKEND = "setuptools.build_meta:__legacy__"
#: A pyproject.toml has some kB; more than this nobody wrote by hand.
MOST_BYTES = 1 << 20
#: Builds that ask for more while they run, and versions that change when dependencies are known: each settles soon.
ROUNDS = 6

_READ_ERRORS = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError, ValueError, KeyError)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildSystem:
    """Who builds a package: requirements of the build, the backend's object, and where in the archive it may be."""

    requires: tuple[str, ...] = DEFAULT_REQUIRES
    backend: str = DEFAULT_BACKEND
    backend_path: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A wheel that was built: its file's name, its digest, its size in bytes, and what uv wants to know of it."""

    filename: str
    sha256: str
    size: int
    metadata: Mapping[str, Any]


class MissingError(Exception):
    """A backend wants more than was there: `requires` are the requirements it named."""

    def __init__(self, requires: Sequence[str]) -> None:
        super().__init__(", ".join(requires))
        self.requires = tuple(requires)


class Maker(Protocol):
    """Builds wheels where a stranger's program can do no harm."""

    def fetch(self, package: Package) -> Path:
        """Bring the package's sdist here, its digest checked; return where it is."""

    def make(self, lock: Lock, package: Package, build: Build, system: BuildSystem) -> Made:
        """Return the wheel of the package's sdist, as it comes out of what the lock and `build` name.

        Raises BuildError when it cannot be built or does not come out twice the same, MissingError when the backend
        wants more.
        """


def build_system(archive: Path, *, name: str) -> BuildSystem:
    """Return what an sdist (tar or zip) says of its build. Raises ResolveError for what cannot be understood."""
    try:
        text = _pyproject(archive)
        table = tomllib.loads(text.decode()).get("build-system") if text is not None else None
    except _READ_ERRORS as broken:
        raise _unreadable(name, str(broken)) from None
    if table is None:
        return BuildSystem()
    try:
        requires = checked(table["requires"])
        backend, path = table.get("build-backend", DEFAULT_BACKEND), tuple(table.get("backend-path", ()))
        if not all(isinstance(text, str) for text in (backend, *path)):
            raise TypeError("`build-backend` and `backend-path` are texts")
    except (InvalidRequirement, KeyError, TypeError, AttributeError) as broken:
        raise _unreadable(name, f"`build-system` in its pyproject.toml: {broken}") from None
    return BuildSystem(requires=requires, backend=backend, backend_path=path)


def checked(texts: Sequence[str]) -> tuple[str, ...]:
    """Return requirements in `packaging`'s spelling. Raises InvalidRequirement, also for one that is at a URL."""
    found = [Requirement(text) for text in texts]
    if at_url := [one for one in found if one.url]:
        raise InvalidRequirement(f"`{at_url[0]}` is not on an index")
    return tuple(map(str, found))


def _pyproject(archive: Path) -> bytes | None:
    """Return the pyproject.toml in the archive's top folder; None when there is none."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            found = [info for info in zipped.infolist() if _is_top(info.filename)]
            return zipped.open(found[0]).read(MOST_BYTES) if found else None
    with tarfile.open(archive) as tar:
        for member in tar:
            if _is_top(member.name) and member.isfile() and (stream := tar.extractfile(member)):
                return stream.read(MOST_BYTES)
    return None


def _is_top(path: str) -> bool:
    parts = path.removeprefix("./").split("/")
    return len(parts) == 2 and parts[1] == "pyproject.toml"


def _unreadable(name: str, why: str) -> ResolveError:
    return ResolveError(
        f"the sdist of `{name}` cannot be read", details=why, hint="ask for another version of it"
    )


def builder_of(lock: Lock, build: Build) -> Lock:
    """Return the lock of the machine that builds a package: the box's own system, with the build's requirements."""
    return replace(
        lock,
        name=f"wheel-{build.name}"[:63].strip("._-"),
        python=build.requires,
        builds=(),
        cuda=None,
        image=None,
        published=(),
    )


def build_id(lock: Lock, package: Package, build: Build, *, recipe: str) -> str:
    """Return the digest of all that a wheel is made of; `recipe` is that of the program that makes it."""
    assert package.sdist is not None
    inputs = {
        "recipe": recipe,
        "sdist": dict(package.sdist.hashes),
        "python": lock.inputs["python"],
        "interpreter": lock.interpreter.sha256 if lock.interpreter else None,
        "debs": sorted(one.sha256 for one in (*lock.system, *lock.apt)),
        "requires": sorted(
            wheel.hashes["sha256"] for one in build.requires.packages for wheel in one.wheels or ()
        ),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolving:
    """Resolves a spec whose packages are built from sources, some of them.

    uv must know what a package depends on to choose its version, and would run its sources to find out. It is told
    instead: nothing at first, then what stands in the wheel that a machine has built of the version it chose.

    `resolve` asks uv for the whole (given metadata), `requirements` for a build's requirements (given their texts and
    the ones kept); `lock` is complete but for its Python part.
    """

    lock: Lock
    maker: Maker
    resolve: Callable[[Sequence[Mapping[str, Any]]], Pylock]
    requirements: Callable[[Sequence[str], Pylock | None], Pylock]
    kept: Mapping[str, Build]

    def run(self, names: Sequence[str]) -> tuple[Pylock, tuple[Build, ...]]:
        """Return the Python part of the lock, and its builds. Raises ResolveError, BuildError."""
        made: dict[tuple[str, str], tuple[Build, Made]] = {}
        for _ in range(ROUNDS):
            known = [result.metadata for _, result in made.values()]
            pylock = self.resolve([*known, *({"name": name, "requires-dist": []} for name in names)])
            sources = {_key(package): package for package in pylock.packages if package.sdist}
            _check_used(names, sources)
            missing = [key for key in sources if key not in made]
            if not missing:
                found = {key: made[key] for key in sources}
                builds = tuple(build for build, _ in found.values())
                return _with_wheels(pylock, {key: result for key, (_, result) in found.items()}), builds
            for key in missing:
                made[key] = self._make(sources[key])
        raise ResolveError(
            "no set of Python packages fits the spec: the versions to build from sources do not settle",
            details=", ".join(f"{name} {version}" for name, version in made),
            hint="ask for exact versions of the packages in `sdists`",
        )

    def _make(self, package: Package) -> tuple[Build, Made]:
        """Build one package, giving its backend what it asks for."""
        system = build_system(self.maker.fetch(package), name=str(package.name))
        wanted, said = system.requires, system.requires
        before = self.kept.get(str(package.name))
        for _ in range(ROUNDS):
            try:
                requires = self.requirements(wanted, before.requires if before else None)
            except ResolveError as failed:
                raise ResolveError(
                    f"what `{package.name}` {package.version} needs to be built cannot be had",
                    details=f"it needs {', '.join(wanted)}\n{failed.details}",
                    hint="ask for another version of it; requirements of a build must have wheels",
                ) from None
            build = Build(name=str(package.name), requires=requires)
            try:
                return build, self.maker.make(self.lock, package, build, replace(system, requires=said))
            except MissingError as missing:
                said += missing.requires
                wanted += self._asked(package, missing)
        raise ResolveError(
            f"the build of `{package.name}` {package.version} asks for ever more", details=", ".join(wanted)
        )

    def _asked(self, package: Package, missing: MissingError) -> tuple[str, ...]:
        """Return what a backend asked for: a stranger's words, which must be requirements and nothing else."""
        try:
            return checked(missing.requires)
        except InvalidRequirement as broken:
            raise ResolveError(
                f"the build of `{package.name}` {package.version} asks for what cannot be had",
                details=str(broken)[:500],
                hint="ask for another version of it",
            ) from None


def _key(package: Package) -> tuple[str, str]:
    return str(package.name), str(package.version)


def _check_used(names: Sequence[str], sources: Mapping[tuple[str, str], Package]) -> None:
    """Nothing that a spec says is without effect."""
    used = {name for name, _ in sources}
    if unused := [name for name in names if canonicalize_name(name) not in used]:
        raise ResolveError(
            f"`sdists` names {' and '.join(f'`{name}`' for name in unused)}, which nothing in the spec needs",
            hint="take it out of `sdists`, or add it to `packages`",
        )


def _with_wheels(pylock: Pylock, made: Mapping[tuple[str, str], Made]) -> Pylock:
    """Return the document with the built wheels beside their sources: found in the store, at no URL."""
    packages = [
        replace(package, wheels=[_wheel(made[_key(package)])]) if _key(package) in made else package
        for package in pylock.packages
    ]
    return replace(pylock, packages=packages)


def _wheel(made: Made) -> PackageWheel:
    return PackageWheel(path=made.filename, size=made.size, hashes={"sha256": made.sha256})
