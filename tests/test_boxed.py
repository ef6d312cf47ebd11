"""What a machine that Vagrant runs is given before it starts: a Vagrantfile of its own, and no box that Vagrant has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import TapeObserver

from mlvm import boxed
from mlvm.box import vagrantfile
from mlvm.cli.parser import make_parser
from mlvm.errors import MachineError
from mlvm.lock.document import Lock
from mlvm.lock.text import loads
from mlvm.machine import gpu
from mlvm.machine.record import Record
from mlvm.machine.vagrant import layout, mending
from mlvm.paths import Home, shipped
from mlvm.spec.document import GIB, MachineShape, SharedFolder, Spec

SPEC = Spec(name="spec", machine=MachineShape(cpus=1, memory=GIB))
SHAPE = MachineShape(cpus=3, memory=2 * GIB)


@pytest.fixture
def record(home: Home) -> Record:
    record = Record(name="lab", provider="vagrant", image_id="0" * 64, project="/x", shape=SHAPE, home=home)
    record.folder.mkdir(parents=True, mode=0o700)
    return record


@pytest.fixture
def lock() -> Lock:
    return loads((shipped("boxes") / "python-3.11" / "mlvm.lock").read_text())


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What boxes were exported; none is made, and no accelerator tried."""
    made: list[Any] = []

    def export(*_: object, provider: str, output: Path, **__: object) -> SimpleNamespace:
        made.append(provider)
        output.write_bytes(b"box")
        return SimpleNamespace(sha256="ab" * 32)

    monkeypatch.setattr(boxed, "export", export)
    monkeypatch.setattr(boxed, "_driver", lambda *_: "qemu")
    return made


def prepare(record: Record, lock: Lock, spec: Spec = SPEC) -> TapeObserver:
    tape = TapeObserver()
    boxed.prepare(record, spec, lock, None, observer=tape)  # type: ignore[arg-type]
    return tape


@pytest.mark.usefixtures("exported")
def test_the_vagrantfile_has_the_machine_s_name_and_size(record: Record, lock: Lock) -> None:
    prepare(record, lock)
    text = layout.vagrantfile(record).read_text()
    assert 'MLVM_NAME = "lab".freeze' in text
    assert "MLVM_CPUS = 3.freeze" in text
    assert "MLVM_MEMORY = 2048.freeze" in text
    assert "MLVM_PORTS = {}.freeze" in text


@pytest.mark.usefixtures("exported")
def test_what_was_proved_says_how_the_guest_runs(record: Record, lock: Lock) -> None:
    prepare(record, lock)
    assert layout.vagrantfile(record).read_text().endswith('ENV["MLVM_LIBVIRT_DRIVER"] ||= "qemu"\n')


def test_a_box_is_exported_for_a_vagrant_that_has_none(
    record: Record, lock: Lock, exported: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    prepare(record, lock)
    assert exported == ["libvirt"]
    assert mending.box(record) == (vagrantfile.box_name(lock), "ab" * 32)


def test_a_box_that_vagrant_has_is_not_exported(
    record: Record, lock: Lock, exported: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    folder = (
        tmp_path / "vagrant/boxes" / vagrantfile.box_name(lock).replace("/", "-VAGRANTSLASH-") / "0/libvirt"
    )
    folder.mkdir(parents=True)
    (folder / "metadata.json").touch()
    prepare(record, lock)
    assert exported == []


@pytest.mark.usefixtures("exported")
def test_gpus_of_this_host_are_named_to_libvirt(
    record: Record, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "choose", lambda count, **_: ("0000:65:00.0", "0000:65:00.1")[: 2 * count])
    prepare(replace(record, shape=MachineShape(gpu=1)), lock)
    text = layout.vagrantfile(record).read_text()
    assert "MLVM_GPU = 1.freeze" in text
    assert text.endswith('ENV["MLVM_GPUS"] = "0000:65:00.0,0000:65:00.1"\n')


def test_a_gpu_that_is_not_there_is_said_before_anything_is_made(
    record: Record, lock: Lock, exported: list[Any]
) -> None:
    with pytest.raises(MachineError, match="the machine wants 16 GPUs of this host"):
        prepare(replace(record, shape=MachineShape(gpu=16)), lock)
    assert exported == []


def test_virtualbox_gives_no_gpu(record: Record, lock: Lock, exported: list[Any]) -> None:
    box = replace(record, provider="vagrant:virtualbox", shape=MachineShape(gpu=1))
    with pytest.raises(MachineError, match=r"virtualbox gives no GPU .*: VirtualBox dropped PCI passthrough"):
        prepare(box, lock)
    assert exported == []


def test_a_network_that_vagrant_would_not_keep_closed_is_refused(record: Record, lock: Lock) -> None:
    with pytest.raises(MachineError, match="`network: none` cannot be had from Vagrant"):
        prepare(record, lock, replace(SPEC, network="none"))


@pytest.mark.usefixtures("exported")
def test_folders_that_are_not_shared_are_said(record: Record, lock: Lock) -> None:
    share = (SharedFolder(folder="data", at=None, write=True),)
    assert prepare(record, lock, replace(SPEC, share=share)).notes == [
        "folders are not shared with machines that Vagrant runs: `share` is left out"
    ]


@pytest.mark.parametrize("text", ["qemu", "vagrant", "vagrant:virtualbox", "vagrant:vmware_desktop"])
def test_the_command_line_takes_a_provider(text: str) -> None:
    assert make_parser().parse_args(["up", "--provider", text]).provider == text


@pytest.mark.parametrize("text", ["libvirt", "vagrant:", "vagrant:; rm", "VAGRANT"])
def test_the_command_line_refuses_another(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(["up", "--provider", text])
    assert "is neither `qemu`, `vagrant` nor `vagrant:NAME`" in capsys.readouterr().err
