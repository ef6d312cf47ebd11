"""Boxes and Vagrantfiles, as Vagrant itself takes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mlvm.box import hardware, vagrantfile
from mlvm.box.export import Exported
from mlvm.box.providers import KINDS
from mlvm.lock.text import loads
from mlvm.paths import Home, shipped
from mlvm.project import Project
from mlvm.spec.document import MachineShape, PortForward, Spec

pytestmark = [pytest.mark.vagrant, pytest.mark.network]

BOX = "python-3.11"


@dataclass(frozen=True, kw_only=True)
class Vagrant:
    """Vagrant in a project's folder, with boxes of its own."""

    folder: Path
    home: Path
    more: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "VAGRANT_HOME": str(self.home),
            "MLVM_LIBVIRT_DRIVER": "qemu",
            **self.more,
        }
        done = subprocess.run(
            ["vagrant", *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done


@pytest.fixture(scope="module")
def project(
    export: Callable[[str], Exported], chain_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project with its boxes for all providers beside its Vagrantfile."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("mlvm.yaml", "mlvm.lock"):
        shutil.copyfile(shipped("boxes") / BOX / name, folder / name)
    project = Project(folder=folder, home=chain_home)
    for provider in KINDS:
        made = export(provider).path
        (folder / made.name).hardlink_to(made)
    project.write_vagrantfile()
    return project


@pytest.fixture(scope="module")
def vagrant(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Vagrant:
    return Vagrant(folder=project.folder, home=tmp_path_factory.mktemp("vagrant"))


@pytest.fixture(scope="module")
def running(vagrant: Vagrant) -> Iterator[Vagrant]:
    """The project's machine, run by libvirt."""
    subprocess.run([Path(__file__).parents[2] / "tools/libvirt-start"], check=True)
    try:
        vagrant.run("up", "--provider", "libvirt")
        yield vagrant
    finally:
        vagrant.run("destroy", "--force", check=False)
        lock = loads((vagrant.folder / "mlvm.lock").read_text())
        remove_volumes(vagrantfile.box_name(lock).replace("/", "-VAGRANTSLASH-"))


def remove_volumes(prefix: str) -> None:
    """Remove what the plugin leaves in libvirt's pool when a box goes."""
    ask = ["virsh", "-c", "qemu:///system"]
    listed = subprocess.run([*ask, "vol-list", "default"], capture_output=True, text=True, check=True)
    for name in (line.split()[0] for line in listed.stdout.splitlines() if line.strip()):
        if name.startswith(prefix):
            subprocess.run([*ask, "vol-delete", name, "default"], check=True, capture_output=True)


def complaints(texts: Mapping[str, str], folder: Path) -> dict[str, list[str]]:
    """Return what the classes for each provider's settings say of its Vagrantfile."""
    pairs = []
    for provider, text in texts.items():
        (folder / provider).mkdir()
        (folder / provider / "Vagrantfile").write_text(text)
        pairs += [str(folder / provider), provider]
    said = subprocess.run(
        ["ruby", "-W0", Path(__file__).with_name("check_config.rb"), *pairs],
        env={**os.environ, "VAGRANT_HOME": str(folder / "home")},
        capture_output=True,
        check=True,
    )
    return dict(zip(texts, json.loads(said.stdout), strict=True))


def test_the_providers_own_classes_have_no_complaint(tmp_path: Path) -> None:
    """Of plugins that cannot be installed here, classes that take the same names."""
    lock = loads((shipped("boxes") / BOX / "mlvm.lock").read_text())
    spec = Spec(name="x", ports=(PortForward(guest=8888, host=18888),))
    text = vagrantfile.render(spec, lock, boxes={})
    assert complaints(dict.fromkeys(KINDS, text), tmp_path) == {provider: [] for provider in KINDS}


def test_nor_have_they_of_the_boxes_own_vagrantfiles(tmp_path: Path) -> None:
    box = 'Vagrant.configure("2") { |config| config.vm.box = "x" }\n'
    texts = {provider: hardware.vagrantfile(provider).decode() + box for provider in KINDS}
    assert complaints(texts, tmp_path) == {provider: [] for provider in KINDS}


def test_gpus_are_in_libvirt_s_own_words(tmp_path: Path) -> None:
    """As the plugin's class and its template for the domain understand our block."""
    lock = loads((shipped("boxes") / BOX / "mlvm.lock").read_text())
    spec = Spec(name="x", machine=MachineShape(gpu=1))
    (tmp_path / "Vagrantfile").write_text(vagrantfile.render(spec, lock, boxes={}))

    said = subprocess.run(
        ["ruby", "-W0", Path(__file__).with_name("libvirt_pci.rb"), tmp_path],
        env={**os.environ, "VAGRANT_HOME": str(tmp_path / "home"), "MLVM_GPUS": "0000:65:00.0,17:00.1"},
        capture_output=True,
        check=True,
    ).stdout

    found = ElementTree.fromstring(b"<domain>" + said + b"</domain>").findall("hostdev")
    assert [(device.get("type"), device.get("managed")) for device in found] == [("pci", "yes")] * 2
    assert [device.find("source/address").attrib for device in found] == [  # type: ignore[union-attr]
        {"domain": "0x0000", "bus": "0x65", "slot": "0x00", "function": "0x0"},
        {"domain": "0x0000", "bus": "0x17", "slot": "0x00", "function": "0x1"},
    ]


def test_vagrant_validates_libvirt_s_block(vagrant: Vagrant) -> None:
    more = Vagrant(folder=vagrant.folder, home=vagrant.home, more={"VAGRANT_DEFAULT_PROVIDER": "libvirt"})
    assert "validated successfully" in more.run("validate").stdout


def test_these_classes_do_complain(tmp_path: Path) -> None:
    wrong = 'Vagrant.configure("2") {{ |c| c.vm.provider("{}") {{ |v| v.no_such_thing = 1 }} }}\n'
    found = complaints({provider: wrong.format(provider) for provider in KINDS}, tmp_path)
    assert [provider for provider in KINDS if "no_such_thing" not in str(found[provider])] == []


@pytest.mark.parametrize("provider", KINDS)
def test_vagrant_takes_the_box(provider: str, vagrant: Vagrant) -> None:
    box = vagrant.folder / f"{BOX}-{provider}.box"
    digest = subprocess.run(["sha256sum", box], capture_output=True, text=True, check=True).stdout.split()[0]
    name = f"taken/{provider}"
    vagrant.run(
        "box", "add", "--name", name, "--checksum-type", "sha256", "--checksum", digest, f"file://{box}"
    )
    assert f"{name} " in vagrant.run("box", "list").stdout
    vagrant.run("box", "remove", name)


@pytest.mark.heavy
def test_the_box_comes_up(running: Vagrant) -> None:
    assert "running" in running.run("status").stdout


@pytest.mark.heavy
def test_a_program_of_the_box_runs(running: Vagrant) -> None:
    done = running.run("ssh", "-c", "python -c 'import ipykernel; print(6 * 7)'")
    assert done.stdout.splitlines()[-1].strip() == "42"


@pytest.mark.heavy
def test_the_insecure_key_does_not_open_it(running: Vagrant) -> None:
    keys = running.run("ssh", "-c", "cat .ssh/authorized_keys").stdout
    assert "insecure" not in keys


@pytest.mark.heavy
def test_the_folder_is_there_without_its_boxes(running: Vagrant) -> None:
    found = running.run("ssh", "-c", "ls /vagrant").stdout.split()
    assert set(found) == {"Vagrantfile", "mlvm.lock", "mlvm.yaml"}


@pytest.mark.heavy
def test_another_host_key_is_refused(running: Vagrant) -> None:
    here = running.folder / ".vagrant/mlvm"
    kept = (here / "host.pub").read_text()
    wrong = here / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong], check=True)
    try:
        (here / "host.pub").write_text(Path(f"{wrong}.pub").read_text())
        done = running.run("ssh", "-c", "true", check=False)
        assert done.returncode != 0
        assert "Host key verification failed" in done.stdout + done.stderr
    finally:
        (here / "host.pub").write_text(kept)
        running.run("status")
