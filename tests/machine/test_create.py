"""Making machines, and refusing to make one of another."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from mlvm.errors import MachineError
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


def test_a_machine_is_made_once(home: Home, tmp_path: Path) -> None:
    first = create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path)
    second = create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path)

    assert second == first == records.load(home, "box")
    assert sorted(path.name for path in first.folder.iterdir()) == ["fresh", "machine.json"]
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
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(records, "save", full)

    with pytest.raises(OSError, match="no space left"):
        create.ensure(home, "box", image=IMAGE, spec=SPEC, project=tmp_path)
    assert [entry.name for entry in home.machines.iterdir()] == [".holds"]


def test_the_table_knows_qemu() -> None:
    assert isinstance(table.provider_for(RECORD), QemuProvider)


def test_a_provider_from_the_future() -> None:
    with pytest.raises(MachineError) as caught:
        table.provider_for(replace(RECORD, provider="cloud"))
    assert str(caught.value) == "machine `box` is run by provider `cloud`, which this mlvm does not know"


def test_forks_are_called_after_their_machine_or_as_one_likes(home: Home) -> None:
    home.machine("box-3").mkdir(parents=True)

    assert create.fork_names(home, "box", None, 3) == ["box-2", "box-4", "box-5"]
    assert create.fork_names(home, "box", "new", 1) == ["new"]
    assert create.fork_names(home, "box", "new", 2) == ["new-1", "new-2"]


def test_a_fork_has_no_address_and_no_port_of_its_machine(home: Home) -> None:
    parent = replace(RECORD, home=home, forks=("f1",))

    (fork,) = create.forks_of(parent, ["new"])

    assert (fork.name, fork.fork_of, fork.ports, fork.forks) == ("new", "box", (), ("f1",))
    assert fork.mac != parent.mac
    assert replace(fork, name="box", fork_of="", ports=parent.ports, mac=parent.mac, created="") == parent


def test_a_forks_name_must_be_free(home: Home) -> None:
    home.machine("taken").mkdir(parents=True)
    for names in (["taken"], ["free", "free"]):
        with pytest.raises(MachineError, match=f"there is a machine `{names[0]}` already"):
            create.forks_of(replace(RECORD, home=home), names)
    with pytest.raises(MachineError, match="`Upper` cannot be a machine's name"):
        create.forks_of(replace(RECORD, home=home), ["Upper"])


def test_a_forks_record_is_read_as_it_was_written(home: Home) -> None:
    (fork,) = create.forks_of(replace(RECORD, home=home, forks=("f1",)), ["new"])
    fork.folder.mkdir(parents=True)
    records.save(fork)

    assert records.load(home, "new") == fork


def test_what_is_half_made_is_no_machine(home: Home) -> None:
    half = home.machine(".tmp-box-1-abcd")
    half.mkdir(parents=True)
    records.save(replace(RECORD, home=home), folder=half)

    assert records.names(home) == []
