"""Two machines of one box, brought up at the same moment under two names, before Vagrant has the box at all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from machine.vagrant.lab import Lab
from mlvm.box import vagrantfile
from mlvm.kernel import kernelspec
from mlvm.machine.provider import State
from mlvm.machine.record import load
from mlvm.machine.vagrant import domain, layout
from mlvm.machine.vagrant.provider import VagrantProvider
from mlvm.paths import Home, shipped
from mlvm.project import Project

pytestmark = [pytest.mark.vagrant, pytest.mark.boot, pytest.mark.heavy, pytest.mark.network]

BOX, NAMES = "python-3.11", ("left", "right")
CELL = "import platform\nprint(platform.node(), 6 * 7)"
ROOT = Path(__file__).parents[3]


def mlvm(home: Home, *words: str) -> subprocess.Popen[str]:
    """Start the command line."""
    return subprocess.Popen(
        [sys.executable, "-m", "mlvm.cli", *words],
        env={**os.environ, "MLVM_HOME": str(home.data.parent)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def both(home: Home, *words: str) -> list[str]:
    """Run a command for both machines at once; `{}` is the name. Return what each said."""
    running = [mlvm(home, *(word.format(name) for word in words)) for name in NAMES]
    said = [one.communicate()[0] for one in running]
    assert [one.returncode for one in running] == [0, 0], said
    return said


@pytest.fixture(scope="module")
def labs(chain_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Lab]]:
    subprocess.run([ROOT / "tools/libvirt-start"], check=True)
    project = Project(folder=shipped("boxes") / BOX, home=chain_home)
    project.build(frozen=True)
    lock = project.lock()
    assert lock is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAGRANT_HOME", str(tmp_path_factory.mktemp("vagrant")))
        try:
            both(
                chain_home,
                "up",
                BOX,
                "--name",
                "{}",
                "--provider",
                "vagrant",
                "--frozen",
                "--progress",
                "none",
            )
            records = [load(chain_home, name) for name in NAMES]
            yield [Lab(project=project, record=one, provider=VagrantProvider()) for one in records if one]
        finally:
            for name in NAMES:
                mlvm(chain_home, "destroy", name, "--yes").communicate()
            domain.drop_cut_short(vagrantfile.box_name(lock), size=1 << 60)


def test_both_run(labs: list[Lab]) -> None:
    assert [lab.state for lab in labs] == [State.RUNNING] * 2


def test_each_bears_its_own_name(labs: list[Lab]) -> None:
    assert tuple(lab.says("hostname") for lab in labs) == NAMES


def test_they_have_one_box_and_keys_of_their_own(labs: list[Lab]) -> None:
    boxes = list(layout.box_home().glob("*/*/libvirt/root.qcow2"))
    assert len(boxes) == 1
    hosts = {lab.says("cat", "/etc/ssh/ssh_host_ed25519_key.pub") for lab in labs}
    assert len(hosts) == 2


def test_what_one_writes_the_other_does_not_see(labs: list[Lab]) -> None:
    left, right = labs
    left.says("sh", "-c", "echo left > ~/whose")
    assert right.says("sh", "-c", "test ! -e ~/whose && echo nothing") == "nothing"


def test_notebooks_in_both_run_at_once(
    labs: list[Lab], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    notebooks = {name: nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)]) for name in NAMES}
    for lab, name in zip(labs, NAMES, strict=True):
        kernelspec.install(lab.project.spec(), lab.project.folder, name=name, machine=name, prefix=tmp_path)

    async def run() -> None:
        clients = [
            NotebookClient(notebook, kernel_name=name, timeout=900, startup_timeout=900)
            for name, notebook in notebooks.items()
        ]
        await asyncio.gather(*(client.async_execute() for client in clients))

    asyncio.run(run())
    said = {name: notebook.cells[0].outputs[0].text for name, notebook in notebooks.items()}
    assert said == {name: f"{name} 42\n" for name in NAMES}


def test_both_go_at_once(labs: list[Lab], chain_home: Home) -> None:
    names = [layout.domain(lab.record) for lab in labs]
    both(chain_home, "destroy", "{}", "--yes")
    assert [domain.find(name) for name in names] == [None, None]
