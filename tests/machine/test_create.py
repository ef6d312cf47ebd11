"""Making machines, and refusing to make one of another."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from mlvm.errors import MachineError, ProgramError
from mlvm.machine import create, table
from mlvm.machine import record as records
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.paths import Home
from mlvm.spec.document import GIB, MIB, MachineShape, PortForward, Spec

from .test_argv import IMAGE, RECORD

SPEC = Spec(
    name="box",
    env=MappingProxyType({"A": "1"}),
    machine=MachineShape(cpus=1, memory=GIB, disk=64 * MIB),
    ports=(PortForward(guest=80, host=8080),),
)


@pytest.fixture(autouse=True)
def overlay_without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The overlay's own tests make real ones; here an empty file of the right size stands for it."""

    def make(path: Path, *, size: int, tools: Path) -> None:
        path.touch()
        os.truncate(path, size)

    monkeypatch.setattr(create, "make_overlay", make)


def test_a_machine_is_made_once(home: Home, tmp_path: Path) -> None:
    first = create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path)
    key = (first.folder / "id_ed25519").read_bytes()
    second = create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path)

    assert second == first == records.load(home, "box")
    assert (first.folder / "id_ed25519").read_bytes() == key
    assert (first.folder / "overlay.img").stat().st_size == 64 * MIB
    assert first.folder.stat().st_mode & 0o777 == 0o700
    assert records.names(home) == ["box"]


def test_shape_and_ports_follow_the_spec_and_the_disk_stays(home: Home, tmp_path: Path) -> None:
    create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path)
    wish = replace(SPEC, machine=MachineShape(cpus=4, memory=2 * GIB, disk=GIB), ports=())

    changed = create.ensure(home, "box", image=IMAGE, spec=wish, project=tmp_path)

    assert changed.shape == MachineShape(cpus=4, memory=2 * GIB, disk=64 * MIB)
    assert changed.ports == ()
    assert records.load(home, "box") == changed


def test_a_name_of_another_project(home: Home, tmp_path: Path) -> None:
    create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path / "one")

    with pytest.raises(MachineError) as caught:
        create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path / "two")
    assert str(caught.value) == f"machine `box` belongs to another project: `{tmp_path}/one`"


def test_a_disk_of_another_image(home: Home, tmp_path: Path) -> None:
    create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path)

    with pytest.raises(MachineError, match="machine `box` was made from another image"):
        create.ensure(home, "box", image=replace(IMAGE, id="j" * 64), spec=SPEC, project=tmp_path)


def test_a_name_that_cannot_be_one(home: Home, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"`\.\./x` cannot be a machine's name"):
        create.ensure(home, "../x", image=IMAGE, spec=SPEC, project=tmp_path)


def test_nothing_stays_of_a_machine_that_could_not_be_made(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    if shutil.which("ssh-keygen", path="/usr/sbin:/sbin"):
        pytest.skip("ssh-keygen is in /usr/sbin here")

    with pytest.raises(ProgramError, match="`ssh-keygen` is not installed"):
        create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path)
    assert [entry.name for entry in home.machines.iterdir()] == [".holds"]


def test_the_table_knows_qemu() -> None:
    assert isinstance(table.provider_for(RECORD), QemuProvider)


def test_a_provider_from_the_future() -> None:
    with pytest.raises(MachineError) as caught:
        table.provider_for(replace(RECORD, provider="cloud"))
    assert str(caught.value) == "machine `box` is run by provider `cloud`, which this mlvm does not know"
