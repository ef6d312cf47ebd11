"""What forked machines share: who uses it is found by looking, and what nobody uses goes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mlvm import files
from mlvm.cli import run
from mlvm.errors import MachineError
from mlvm.machine import record as records
from mlvm.machine.provider import State
from mlvm.machine.qemu import forks, host, run_record, state
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import Record
from mlvm.paths import Home

from .test_argv import RECORD


@pytest.fixture
def fork(home: Home) -> forks.Fork:
    """A fork of machine `box` with all its files."""
    with forks.making(replace(RECORD, home=home)) as made:
        for name in (forks.RAM, forks.DEVICES, "disk.img"):
            (made.folder / name).write_bytes(b"x" * 5000)
    return made


def machine(home: Home, name: str, *ids: str, runs: bool = False) -> Record:
    """A machine whose disk builds on forks; when it runs, this very process maps its RAM."""
    record = replace(RECORD, home=home, name=name, forks=ids)
    record.folder.mkdir(parents=True)
    (record.folder / "overlay.img").touch()
    records.save(record)
    if runs:
        pid = os.getpid()
        run = Run(
            pid=pid,
            started=run_record.start_time(pid) or 0,
            boot_id=host.boot_id(),
            qemu_version="7.2.22",
            accelerator="tcg",
            command="c",
            ready=True,
            fork=ids[0],
        )
        run_record.save(record, run)
    return record


def left(fork: forks.Fork) -> list[str]:
    return sorted(path.name for path in fork.folder.iterdir()) if fork.folder.exists() else []


def test_all_stays_while_a_machine_maps_it(home: Home, fork: forks.Fork) -> None:
    machine(home, "one", fork.id, runs=True)

    assert forks.tidy(home) == []
    assert left(fork) == ["devices.bin", "disk.img", "fork.json", "ram.img"]


def test_the_ram_goes_when_nobody_maps_it_any_more(home: Home, fork: forks.Fork) -> None:
    machine(home, "one", fork.id)

    (gone,) = forks.tidy(home)

    assert (gone.kind, gone.name, gone.id) == ("fork", "RAM", fork.id)
    assert gone.size >= 10000
    assert left(fork) == ["disk.img", "fork.json"]


def test_a_run_from_elsewhere_maps_no_fork(home: Home, fork: forks.Fork) -> None:
    """It was booted, or resumed from RAM of its own."""
    record = machine(home, "one", fork.id, runs=True)
    run = run_record.load(record)
    assert run is not None
    run_record.save(record, replace(run, fork=""))

    assert [item.name for item in forks.tidy(home)] == ["RAM"]


def test_a_fork_of_a_fork_keeps_both_disks(home: Home, fork: forks.Fork) -> None:
    machine(home, "grandchild", "another", fork.id)
    forks.tidy(home)

    assert left(fork) == ["disk.img", "fork.json"]


def test_what_no_machine_uses_goes(home: Home, fork: forks.Fork) -> None:
    (gone,) = forks.tidy(home, dry_run=True)
    assert (gone.name, gone.used_by, left(fork)[0]) == ("box", (), "devices.bin")

    assert forks.tidy(home) == [gone]
    assert left(fork) == []
    assert forks.items(home) == []


def test_a_fork_that_is_being_made_stays(home: Home) -> None:
    with forks.making(replace(RECORD, home=home)) as made:
        assert forks.tidy(home) == []
        assert made.folder.exists()


def test_nothing_stays_of_one_that_failed(home: Home) -> None:
    with pytest.raises(MachineError), forks.making(replace(RECORD, home=home)) as made:
        raise MachineError("no room")

    assert not made.folder.exists()
    assert list((home.forks / ".holds").iterdir()) == []


def test_a_record_that_cannot_be_read_may_name_any(home: Home, fork: forks.Fork) -> None:
    record = machine(home, "one", fork.id)
    (record.folder / "machine.json").write_text("{")

    assert forks.tidy(home) == []
    assert left(fork) == ["devices.bin", "disk.img", "fork.json", "ram.img"]


def test_store_and_prune_tell_of_them(
    home: Home, fork: forks.Fork, capsys: pytest.CaptureFixture[str]
) -> None:
    record = machine(home, "one", fork.id)

    assert run(["store"]) == 0
    assert "machine one" in next(line for line in capsys.readouterr().out.splitlines() if "fork" in line)
    files.remove_tree(record.folder)
    assert run(["prune"]) == 0
    assert f"fork      box  {fork.id[:12]}" in capsys.readouterr().out
    assert left(fork) == []


def test_a_machine_without_the_disk_beneath_it_is_broken(home: Home) -> None:
    record = machine(home, "one", "gone")

    found = state.look(record, "boot")

    assert found.state is State.BROKEN
    assert found.reasons == (f"the disk it was forked from, `{home.forks / 'gone' / 'disk.img'}`, is gone",)


@pytest.mark.parametrize(("number", "why"), [("0", "0"), ("65", "65"), ("two", "two")])
def test_how_many_must_be_a_number(
    home: Home, number: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(["fork", "box", "--count", number])

    assert f"argument --count: `{why}` is no number from 1 to 64" in capsys.readouterr().err


def test_a_machine_that_does_not_run_has_no_forks(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(home, "one")

    assert run(["fork", "one"]) == 9
    assert "is not in the store" in capsys.readouterr().err
