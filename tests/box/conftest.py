"""A small disk of odd content, how to wrap it without a lock (the host's own Python compresses), and real boxes."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlvm.box.deflate import Deflater
from mlvm.box.export import Exported
from mlvm.box.recipe import Recipe, Scratch
from mlvm.paths import Home, shipped
from mlvm.project import Project

SIZE = 40 << 20
#: The shipped project whose boxes are made, booted and given to Vagrant.
BOX = "python-3.11"


@pytest.fixture(scope="session", autouse=True)
def seeds_are_removed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove what Vagrantfiles leave where hypervisors can read it, as pytest's own folders are closed to them."""
    yield
    base = tmp_path_factory.getbasetemp()
    for pattern in ("*/.vagrant/mlvm", "*/*/.vagrant/mlvm"):
        for here in base.glob(pattern):
            name = f"mlvm-{hashlib.sha256(bytes(here)).hexdigest()[:16]}"
            shutil.rmtree(Path("/var/tmp") / name, ignore_errors=True)


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return Scratch(folder / "bytes")


@pytest.fixture
def disk(scratch: Scratch) -> Recipe:
    """40 MiB: content at both ends, at odd places, across every boundary that a format has, and nothing between."""
    recipe = Recipe(scratch)
    for offset, content in (
        (0, b"first" * 300),
        ((64 << 10) - 7, os.urandom(20)),
        ((2 << 20) - 512, b"\xaa" * 1024),
        ((32 << 20) - 1, b"xy"),
        (SIZE - 512, b"last" * 128),
    ):
        recipe.zeros_to(offset)
        recipe.data(content)
    assert recipe.size == SIZE
    return recipe


@pytest.fixture
def content(disk: Recipe) -> bytes:
    return b"".join(disk.content())


@pytest.fixture
def deflater(tmp_path: Path) -> Callable[[int], Deflater]:
    """Makes one for so many CPUs, in a folder of its own."""

    def make(workers: int) -> Deflater:
        folder = tmp_path / f"deflate-{workers}"
        folder.mkdir()
        python = SimpleNamespace(command=[sys._base_executable], home=sys.base_prefix)  # type: ignore[attr-defined]
        return Deflater(python=python.command, home=python.home, scratch=folder, workers=workers)

    return make


@pytest.fixture(scope="session")
def shipped_project(chain_home: Home) -> Project:
    return Project(folder=shipped("boxes") / BOX, home=chain_home)


@pytest.fixture(scope="session")
def export(shipped_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Exports a box when it is asked for the first time, for all tests of a run."""
    folder = tmp_path_factory.mktemp("boxes")
    made: dict[str, Exported] = {}

    def once(provider: str) -> Exported:
        if provider not in made:
            made[provider] = shipped_project.export_box(
                provider, output=folder / f"{BOX}-{provider}.box", frozen=True
            )
        return made[provider]

    return once
