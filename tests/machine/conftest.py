"""Fixtures that several of these tests use: an agent on this host, notebooks in it, and a project that is locked."""

from __future__ import annotations

import pytest

from mlvm.paths import Home
from mlvm.project import Project

from .test_nursery import guest, open_notebook

__all__ = ["guest", "open_notebook"]

SPEC = """\
name: warm
debian: bookworm
python: "3.11"
packages: [numpy]
preload: [numpy, tempfile, ssl]
machine: {cpus: 2, memory: 1 GiB, disk: 1 GiB}
"""


@pytest.fixture(scope="session")
def numpy_project(chain_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with numpy, resolved once for all who need more than the shipped boxes have, and built."""
    folder = tmp_path_factory.mktemp("warm")
    (folder / "mlvm.yaml").write_text(SPEC)
    found = Project(folder=folder, home=chain_home)
    found.build()
    return found
