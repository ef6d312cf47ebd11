"""Packages that are built from their sources: what is read of them, and how a resolution settles."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lock_sample as sample
import pytest
from packaging.pylock import Package, Pylock

from mlvm.errors import ResolveError
from mlvm.lock.document import Build, Lock
from mlvm.lock.sdists import (
    BuildSystem,
    Made,
    MissingError,
    Resolving,
    build_id,
    build_system,
    builder_of,
)

PYPROJECT = """\
[build-system]
requires = ["Setuptools >= 61", "wheel"]
build-backend = "backend:hooks"
backend-path = ["."]
"""


def tarred(path: Path, members: Mapping[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def zipped(path: Path, members: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize("pack", [tarred, zipped])
def test_what_an_archive_says_of_its_build(tmp_path: Path, pack: Any) -> None:
    members = {"x-1/tests/pyproject.toml": "no TOML", "x-1/pyproject.toml": PYPROJECT}

    found = build_system(pack(tmp_path / "sdist", members), name="x")

    assert found == BuildSystem(
        requires=("Setuptools>=61", "wheel"), backend="backend:hooks", backend_path=(".",)
    )


@pytest.mark.parametrize("members", [{"x-1/setup.py": ""}, {"x-1/pyproject.toml": "[tool.black]\n"}])
def test_an_archive_that_says_nothing_is_for_setuptools(tmp_path: Path, members: Mapping[str, str]) -> None:
    found = build_system(tarred(tmp_path / "sdist", members), name="x")

    assert (found.requires, found.backend) == (
        ("setuptools>=40.8.0",),
        "setuptools.build_meta:__legacy__",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[build-system", "Expected ']' at the end of a table declaration (at end of document)"),
        ("[build-system]\n", "`build-system` in its pyproject.toml: 'requires'"),
        (
            "[build-system]\nrequires = ['x @ https://example.org/x.whl']\n",
            "`build-system` in its pyproject.toml: `x @ https://example.org/x.whl` is not on an index",
        ),
        (
            "[build-system]\nrequires = []\nbackend-path = [1]\n",
            "`build-system` in its pyproject.toml: `build-backend` and `backend-path` are texts",
        ),
    ],
)
def test_an_archive_that_makes_no_sense(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ResolveError) as error:
        build_system(tarred(tmp_path / "sdist", {"x-1/pyproject.toml": text}), name="x")

    assert (error.value.message, error.value.details) == ("the sdist of `x` cannot be read", why)


def test_no_archive_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sdist"
    path.write_bytes(b"<html>")

    with pytest.raises(ResolveError, match="the sdist of `x` cannot be read"):
        build_system(path, name="x")


def test_the_machine_that_builds_is_the_box_with_what_the_build_needs() -> None:
    lock = sample.built()

    builder = builder_of(lock, lock.builds[0])

    assert builder == replace(lock, name="wheel-docopt", python=lock.builds[0].requires, builds=())


def test_a_wheel_is_made_of_sources_system_and_requirements() -> None:
    lock = sample.built()
    package, build = lock.python.packages[0], lock.builds[0]
    first = build_id(lock, package, build, recipe="1")

    others = [
        build_id(lock, package, build, recipe="2"),
        build_id(replace(lock, apt=(sample.deb("gcc"),)), package, build, recipe="1"),
        build_id(replace(lock, inputs={**lock.inputs, "python": "3.12"}), package, build, recipe="1"),
        build_id(lock, package, replace(build, requires=sample.pylock({"flit-core": "3.9"})), recipe="1"),
        build_id(
            lock, sample.built(version="0.6.1").python.packages[0], replace(build, name="docopt"), recipe="1"
        ),
    ]

    assert len({first, *others}) == len(others) + 1
    # The guest kernel and the tools that make file systems are not in it.
    assert build_id(replace(lock, boot=(), tools=()), package, build, recipe="1") == first


class FakeMaker:
    """Knows what wheels depend on, and what backends ask for besides."""

    def __init__(self, sdist: Path, depends: Mapping[str, list[str]], asks: Sequence[str] = ()) -> None:
        self.sdist = sdist
        self.depends = depends
        self.asks = asks
        self.made: list[str] = []

    def fetch(self, package: Package) -> Path:
        return self.sdist

    def make(self, lock: Lock, package: Package, build: Build, system: BuildSystem) -> Made:
        if missing := [text for text in self.asks if text not in system.requires]:
            raise MissingError(missing)
        version = f"{package.name} {package.version}"
        self.made.append(version)
        metadata = {
            "name": str(package.name),
            "version": str(package.version),
            "requires-dist": self.depends[version],
        }
        return Made(
            filename=f"{package.name}-{package.version}-py3-none-any.whl",
            sha256=sample.digest(version),
            size=5,
            metadata=metadata,
        )


def sources(version: str) -> Pylock:
    """What uv says of docopt: its sources and no wheel."""
    found = sample.built(version=version).python
    packages = [replace(one, wheels=None) if one.sdist else one for one in found.packages]
    return replace(found, packages=packages)


def resolving(maker: FakeMaker, **changes: Any) -> Resolving:
    def whole(known: Sequence[Mapping[str, Any]]) -> Pylock:
        newest = next((one for one in known if one.get("version") == "0.6.2"), None)
        return sources("0.6.1" if newest and newest["requires-dist"] == ["too-new"] else "0.6.2")

    plain = Resolving(
        lock=sample.lock(),
        maker=maker,
        resolve=whole,
        requirements=lambda texts, kept: sample.pylock({text.partition(">")[0]: "1" for text in texts}),
        kept={},
    )
    return replace(plain, **changes)


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    return tarred(tmp_path / "sdist", {"docopt/setup.py": ""})


def test_a_package_is_built_to_know_what_it_needs(sdist: Path) -> None:
    maker = FakeMaker(sdist, {"docopt 0.6.2": []})

    python, builds = resolving(maker).run(["docopt"])

    assert builds == (Build(name="docopt", requires=sample.pylock({"setuptools": "1"})),)
    (wheel,) = python.packages[0].wheels or ()
    assert (wheel.path, wheel.size, wheel.hashes) == (
        "docopt-0.6.2-py3-none-any.whl",
        5,
        {"sha256": sample.digest("docopt 0.6.2")},
    )


def test_what_it_turns_out_to_need_may_move_its_version(sdist: Path) -> None:
    maker = FakeMaker(sdist, {"docopt 0.6.2": ["too-new"], "docopt 0.6.1": []})

    python, builds = resolving(maker).run(["docopt"])

    assert maker.made == ["docopt 0.6.2", "docopt 0.6.1"]
    assert str(python.packages[0].version) == "0.6.1"
    assert [build.name for build in builds] == ["docopt"]


def test_a_backend_gets_what_it_asks_for(sdist: Path) -> None:
    maker = FakeMaker(sdist, {"docopt 0.6.2": []}, asks=["cython >= 3"])

    _, builds = resolving(maker).run(["docopt"])

    assert [str(one.name) for one in builds[0].requires.packages] == ["cython", "setuptools"]


@pytest.mark.parametrize("asked", ["-r /etc/passwd", "x\n--index-url https://evil", "x @ https://evil/x.whl"])
def test_a_backend_asks_for_requirements_and_nothing_else(sdist: Path, asked: str) -> None:
    maker = FakeMaker(sdist, {"docopt 0.6.2": []}, asks=[asked])

    with pytest.raises(ResolveError, match="asks for what cannot be had"):
        resolving(maker).run(["docopt"])


def test_a_build_whose_requirements_have_no_wheels(sdist: Path) -> None:
    def refuse(texts: Sequence[str], kept: Pylock | None) -> Pylock:
        raise ResolveError("no set fits", details="setuptools has no wheels")

    with pytest.raises(ResolveError) as error:
        resolving(FakeMaker(sdist, {}), requirements=refuse).run(["docopt"])

    assert error.value.message == "what `docopt` 0.6.2 needs to be built cannot be had"
    assert error.value.details == "it needs setuptools>=40.8.0\nsetuptools has no wheels"


def test_a_name_that_nothing_needs(sdist: Path) -> None:
    with pytest.raises(ResolveError) as error:
        resolving(FakeMaker(sdist, {"docopt 0.6.2": []})).run(["docopt", "other"])

    assert error.value.message == "`sdists` names `other`, which nothing in the spec needs"
