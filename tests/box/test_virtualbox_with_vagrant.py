"""Vagrant's own VirtualBox provider, driven through a machine's life with our box and a VBoxManage stand-in.

The stand-in (`vboxmanage.py`) reads the box's OVF and starts QEMU on the hardware that it asks for. So this shows that
box and Vagrantfile are what Vagrant's provider wants; whether VirtualBox itself would take them it does not show. The
tests build on one another, in their order.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from vbox_machine import Machine, from_document

from mlvm.box.export import Exported
from mlvm.paths import Home, shipped
from mlvm.project import Project

pytestmark = [pytest.mark.vagrant, pytest.mark.heavy, pytest.mark.network]

HERE = Path(__file__).parent
BOX = "python-3.11"
#: Starts a kernel and has it answer; the kernel is the box's own.
KERNEL = (
    "from jupyter_client.manager import start_new_kernel as start; m, c = start(startup_timeout=600); "
    "c.execute_interactive('print(6 * 7)', timeout=600); m.shutdown_kernel(now=True)"
)


@dataclass(frozen=True, kw_only=True)
class Vagrant:
    """Vagrant in the project's folder, for which VirtualBox is what stands in for it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(
            ["vagrant", *words], cwd=self.folder, env=self.environment, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def says(self, command: str) -> str:
        """Return the last line that a command in the machine says."""
        return self.run("ssh", "-c", command).strip().splitlines()[-1].strip()

    @property
    def state(self) -> str:
        lines = self.run("status", "--machine-readable").splitlines()
        return next(line.split(",")[3] for line in lines if line.split(",")[2] == "state")

    @property
    def standin(self) -> Path:
        return Path(self.environment["VBOX_STANDIN"])

    @property
    def machine(self) -> Machine:
        (document,) = json.loads((self.standin / "machines.json").read_text()).values()
        return from_document(document)


@pytest.fixture(scope="module")
def vagrant(
    export: Callable[[str], Exported], chain_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Vagrant]:
    folder = tmp_path_factory.mktemp("virtualbox")
    box = shipped("boxes") / BOX
    spec = (box / "mlvm.yaml").read_text()
    (folder / "mlvm.yaml").write_text(spec + "ports: [{guest: 8888, host: 18889}]\n")
    shutil.copyfile(box / "mlvm.lock", folder / "mlvm.lock")
    made = export("virtualbox").path
    (folder / made.name).hardlink_to(made)
    Project(folder=folder, home=chain_home).write_vagrantfile()
    programs = folder.parent / "programs"
    programs.mkdir()
    (programs / "VBoxManage").write_text(f'#!/bin/sh\nexec {sys.executable} {HERE / "vboxmanage.py"} "$@"\n')
    (programs / "VBoxManage").chmod(0o755)
    vagrant = Vagrant(
        folder=folder,
        environment={
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "VBOX_STANDIN": str(tmp_path_factory.mktemp("standin")),
            "VAGRANT_HOME": str(tmp_path_factory.mktemp("home")),
            "VAGRANT_DEFAULT_PROVIDER": "virtualbox",
            "VAGRANT_CHECKPOINT_DISABLE": "1",
        },
    )
    try:
        vagrant.run("up")
        yield vagrant
    finally:
        vagrant.run("destroy", "--force", check=False)


def test_vagrant_validates_virtualbox_s_block(vagrant: Vagrant) -> None:
    assert "validated successfully" in vagrant.run("validate")


def test_it_comes_up(vagrant: Vagrant) -> None:
    assert vagrant.state == "running"


def test_its_size_is_the_spec_s(vagrant: Vagrant) -> None:
    spec = Project(folder=vagrant.folder, home=Home.find()).spec()
    assert (vagrant.machine.cpus, vagrant.machine.memory << 20) == (spec.machine.cpus, spec.machine.memory)
    assert vagrant.says("nproc") == str(spec.machine.cpus)


def test_a_kernel_answers_in_it(vagrant: Vagrant) -> None:
    assert vagrant.says(f'python -c "{KERNEL}"') == "42"


def test_its_keys_came_on_the_disc(vagrant: Vagrant) -> None:
    user = (vagrant.folder / ".vagrant/mlvm/user.pub").read_text().split()[1]
    assert vagrant.says("cat .ssh/authorized_keys").split()[1] == user


def test_another_host_key_is_refused(vagrant: Vagrant) -> None:
    here = vagrant.folder / ".vagrant/mlvm"
    kept = (here / "host.pub").read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", here / "wrong"], check=True)
    try:
        (here / "host.pub").write_text((here / "wrong.pub").read_text())
        assert "Host key verification failed" in vagrant.run("ssh", "-c", "true", check=False)
    finally:
        (here / "host.pub").write_text(kept)
        vagrant.run("status")


def test_its_ports_are_on_loopback_only(vagrant: Vagrant) -> None:
    rules = {rule[0]: rule[2:] for rule in vagrant.machine.forwards}
    assert rules["mlvm-8888"] == ["127.0.0.1", "18889", "", "8888"]
    assert {rule[0] for rule in rules.values()} == {"127.0.0.1"}
    assert "8888 (guest) => 18889 (host)" in vagrant.run("port")


def test_the_folder_is_there_without_its_boxes(vagrant: Vagrant) -> None:
    found = vagrant.run("ssh", "-c", "ls /vagrant").split()
    assert set(found) == {"Vagrantfile", "mlvm.lock", "mlvm.yaml"}


def test_a_suspended_machine_goes_on_where_it_was(vagrant: Vagrant) -> None:
    pid = vagrant.says("sleep 100000 > /dev/null 2>&1 < /dev/null & echo $!")
    vagrant.run("suspend")
    assert vagrant.state == "saved"
    vagrant.run("resume")
    assert vagrant.says(f"ps -o comm= -p {pid}") == "sleep"


def test_it_goes_back_to_a_snapshot(vagrant: Vagrant) -> None:
    vagrant.says("echo before > ~/mark; echo written")
    vagrant.run("snapshot", "save", "one")
    vagrant.says("echo after > ~/mark; echo written")
    assert "one" in vagrant.run("snapshot", "list")
    vagrant.run("snapshot", "restore", "one", "--no-provision")
    assert vagrant.says("cat ~/mark") == "before"
    vagrant.run("snapshot", "delete", "one")


def test_a_halted_machine_keeps_its_disk(vagrant: Vagrant) -> None:
    vagrant.run("halt")
    assert vagrant.state == "poweroff"
    vagrant.run("up")
    assert vagrant.says("cat ~/mark") == "before"


def test_nothing_is_left_after_destroy(vagrant: Vagrant) -> None:
    machine = vagrant.machine
    vagrant.run("destroy", "--force")
    assert vagrant.state == "not_created"
    assert json.loads((vagrant.standin / "machines.json").read_text()) == {}
    assert not machine.place.exists()
    assert machine.pid is None
