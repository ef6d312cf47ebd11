"""Tests of nbclient and of jupyter_client, with a kernel in a machine wherever they ask for a kernel.

Their source is fetched from the package index at the pinned versions; nothing of it is kept here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import agent_world
import pytest

pytestmark = [pytest.mark.jupyter, pytest.mark.network, pytest.mark.heavy]

TESTS = Path(__file__).parents[1]
#: Every notebook of nbclient's, executed and compared with what it ought to give; without three: one reads a file
#: beside it, one wants a variable of the host's environment, one an argument for the kernel's command line.
NOTEBOOKS = "run_all_notebooks and not Image and not Tags and not History"
#: Clients, and many kernels at once. Without: ipc, which leads into no machine; a cell that is no Python, which the
#: kernel it is meant for repeats; and managers in forks of a process that has managed kernels in this machine before,
#: whose ports are led by a thread that no fork has.
CLIENTS = """not ipc and not (TestAsyncKernelClient and test_execute_interactive)
and not (TestAsyncKernelManager and parallel_process)""".replace("\n", " ")
#: What jupyter_client's tests need besides, for this run only: as plugins they would be part of all of ours.
PLUGINS = ("pytest-jupyter", "pytest-asyncio", "pytest-timeout")


def source(package: str, folder: Path) -> Path:
    """Return the source of the release that is installed."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--no-binary", ":all:", "--dest", str(folder), f"{package}=={version(package)}"),
        ],
        check=True,
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


@pytest.fixture
def world() -> Iterator[Path]:
    """A machine whose agent is real, in a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="mlvm-t-") as folder, agent_world.agent(Path(folder)):
        yield Path(folder)


def run(source: Path, world: Path, *arguments: str, path: tuple[Path, ...] = ()) -> None:
    """Run tests of a source with kernels in a machine."""
    env = {
        **os.environ,
        "ASYNC_TEST_TIMEOUT": "200",  # of tornado; its own 5 s are little for two kernels on a busy host
        "MLVM_TEST_WORLD": str(world),
        "MLVM_HOME": str(world / "home"),
        "PYTHONPATH": os.pathsep.join(map(str, (TESTS.parent, TESTS, Path(__file__).parent, *path))),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "pointed", "-p", "no:cacheprovider"),
            *("-o", "addopts=", "-o", "filterwarnings=default", *arguments),
        ],
        cwd=source,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-5000:]
    assert "times a kernel in a machine was asked for" in done.stdout


def test_nbclients_notebooks(tmp_path: Path, world: Path) -> None:
    run(source("nbclient", tmp_path), world, "tests/test_client.py", "-k", NOTEBOOKS)


def test_jupyter_clients_clients(tmp_path: Path, world: Path) -> None:
    plugins = tmp_path / "plugins"
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(plugins), *PLUGINS)
    subprocess.run([sys.executable, *install], check=True)
    tests = ("tests/test_client.py", "tests/test_multikernelmanager.py")

    run(
        source("jupyter_client", tmp_path), world, *tests, "-o", "timeout=300", "-k", CLIENTS, path=(plugins,)
    )
