"""What a machine of Vagrant's is doing, from libvirt's recorded answers, and what is put right before a start."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from fakes import TapeObserver
from hypothesis import given
from hypothesis import strategies as st

from mlvm import files
from mlvm.errors import MachineError, ProgramError
from mlvm.machine import record as records
from mlvm.machine.provider import Condition, State
from mlvm.machine.record import Record
from mlvm.machine.vagrant import domain, layout, looking, mending
from mlvm.paths import Home

DATA = Path(__file__).parent / "data"
UUID = "83429fa5-e8f7-4146-ae27-96e5390e3db1"
#: What virsh says of a domain that it does not know.
UNKNOWN = f"error: failed to get domain '{UUID}'"
NOBODY = (
    "error: failed to connect to the hypervisor\n"
    "error: Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file or directory"
)

Virsh = Callable[..., Path]


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Virsh:
    """Puts a `virsh` first on PATH that answers each of its commands with a text, and logs what it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def answer(*, fail: str = "", **texts: str) -> Path:
        log = tmp_path / "asked"
        lines = [f"echo \"$@\" >> '{log}'", "case $3 in"]
        for command, text in texts.items():
            (tmp_path / command).write_text(text)
            lines.append(f"{command.replace('_', '-')}) cat '{tmp_path / command}' ;;")
        (tmp_path / "fail").write_text(fail)
        lines += [f"*) cat '{tmp_path / 'fail'}' >&2; exit 1 ;;", "esac"]
        program = folder / "virsh"
        program.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
        program.chmod(0o755)
        return log

    return answer


@pytest.fixture
def record(home: Home) -> Record:
    """A machine that Vagrant knows by its id."""
    record = Record(name="lab", provider="vagrant", image_id="0" * 64, project="/x", home=home)
    record.folder.mkdir(parents=True)
    records.save(record)
    files.write_whole(layout.id_file(record), UUID)
    return record


def text(name: str) -> str:
    return (DATA / f"dominfo_{name}.txt").read_text()


def look(record: Record) -> Condition:
    return looking.look(record, lambda _: pytest.fail("Vagrant was asked"))


def test_a_domain_that_runs_without_an_agent_is_starting(record: Record, virsh: Virsh) -> None:
    virsh(dominfo=text("running"))
    assert look(record) == Condition(state=State.STARTING, reasons=("its agent has not answered yet",))


def test_a_domain_whose_agent_has_answered_runs(record: Record, virsh: Virsh) -> None:
    virsh(dominfo=text("running"))
    looking.note_run(record)
    assert look(record) == Condition(state=State.RUNNING)


def test_an_agent_of_another_run_does_not_count(record: Record, virsh: Virsh) -> None:
    virsh(dominfo=text("running"))
    looking.note_run(record)
    virsh(dominfo=text("running").replace("Id:             1", "Id:             2"))
    assert look(record).state is State.STARTING


def test_a_domain_that_is_off_is_stopped(record: Record, virsh: Virsh) -> None:
    virsh(dominfo=text("off"))
    assert look(record) == Condition(state=State.STOPPED)


def test_a_saved_domain_is_suspended(record: Record, virsh: Virsh) -> None:
    virsh(dominfo=text("saved"))
    assert look(record) == Condition(state=State.SUSPENDED)


def test_a_full_disk_is_a_reason(record: Record, virsh: Virsh) -> None:
    virsh(dominfo=text("running").replace("running\n", "paused\n", 1), domstate="paused (I/O error)\n")
    assert look(record) == Condition(state=State.SUSPENDED, reasons=(looking.FULL,))


def test_a_domain_that_is_gone_is_said_to_be(record: Record, virsh: Virsh) -> None:
    virsh(fail=UNKNOWN)
    assert look(record) == Condition(
        state=State.STOPPED, reasons=("libvirt has lost it: the next start makes it anew, with a new disk",)
    )


def test_a_damaged_note_is_said_to_be(record: Record, virsh: Virsh) -> None:
    layout.id_file(record).write_text("junk")
    assert look(record) == Condition(
        state=State.STOPPED, reasons=("Vagrant's note of it is damaged, and is made anew at the next start",)
    )


def test_a_libvirt_that_does_not_answer_is_a_reason(record: Record, virsh: Virsh) -> None:
    virsh(fail=NOBODY)
    assert look(record) == Condition(state=State.BROKEN, reasons=("libvirt does not answer",))


def test_a_libvirt_that_does_not_answer_has_a_next_command(record: Record, virsh: Virsh) -> None:
    virsh(fail=NOBODY)
    with pytest.raises(ProgramError) as caught:
        domain.find(UUID)
    assert caught.value.hint == "sudo systemctl start libvirtd; are you in the group `libvirt`?"


def test_no_record_is_no_machine(record: Record) -> None:
    files.remove_tree(record.folder)
    assert look(record) == Condition(state=State.ABSENT)


def test_a_machine_that_was_never_started_is_stopped(home: Home) -> None:
    record = Record(name="lab", provider="vagrant", image_id="0" * 64, project="/x", home=home)
    record.folder.mkdir(parents=True)
    records.save(record)
    assert look(record) == Condition(state=State.STOPPED)


@pytest.mark.parametrize(
    ("word", "state"), [("poweroff", State.STOPPED), ("saved", State.SUSPENDED), ("running", State.STARTING)]
)
def test_another_hypervisor_is_asked_through_vagrant(home: Home, word: str, state: State) -> None:
    record = Record(name="lab", provider="vagrant:virtualbox", image_id="0" * 64, project="/x", home=home)
    record.folder.mkdir(parents=True)
    records.save(record)
    files.write_whole(layout.id_file(record), "some id")
    assert looking.look(record, lambda _: word).state is state


def test_a_word_nobody_knows_is_shown(home: Home) -> None:
    record = Record(name="lab", provider="vagrant:virtualbox", image_id="0" * 64, project="/x", home=home)
    record.folder.mkdir(parents=True)
    records.save(record)
    files.write_whole(layout.id_file(record), "some id")
    assert looking.look(record, lambda _: "levitating").reasons == ("Vagrant says it is `levitating`",)


def test_hyper_v_is_not_driven(home: Home) -> None:
    record = Record(name="lab", provider="vagrant:hyperv", image_id="0" * 64, project="/x", home=home)
    with pytest.raises(MachineError, match="`hyperv` is not a provider of Vagrant's that mlvm drives"):
        layout.hypervisor(record)


def test_a_domain_s_cpu_time_is_read() -> None:
    assert domain.parse(text("running")).cpu_seconds == 64.7


@given(st.text())
def test_any_answer_is_read_or_refused(answer: str) -> None:
    with suppress(MachineError):
        assert domain.parse(answer).uuid


def test_a_machine_that_vagrant_does_not_know_any_more_is_found_by_its_name(
    record: Record, virsh: Virsh
) -> None:
    log = virsh(dominfo=text("running"))
    layout.id_file(record).unlink()
    files.write_whole(layout.vagrantfile(record), "# any\n")
    mending.adopt(record, TapeObserver())
    assert layout.id_file(record).read_text() == UUID
    assert log.read_text().split()[-1] == layout.domain(record)


def test_keys_that_were_deleted_with_vagrant_s_folder_are_put_back(record: Record) -> None:
    for name in ("user", "user.pub", "host", "host.pub"):
        files.write_whole(layout.keys(record) / name, name, mode=0o600)
    mending.keep_keys(record)
    files.remove_tree(layout.root(record) / ".vagrant")
    mending.restore_keys(record)
    found = sorted(path.name for path in layout.keys(record).iterdir())
    assert found == ["host", "host.pub", "user", "user.pub"]
    assert (layout.keys(record) / "user").read_text() == "user"
    assert (layout.keys(record) / "user").stat().st_mode & 0o777 == 0o600


def test_keys_that_are_there_are_left_alone(record: Record) -> None:
    files.write_whole(layout.keys(record) / "user", "old")
    mending.keep_keys(record)
    files.write_whole(layout.keys(record) / "user", "new")
    mending.restore_keys(record)
    assert (layout.keys(record) / "user").read_text() == "new"


def test_what_is_left_of_a_machine_that_is_gone_is_removed_first(record: Record, virsh: Virsh) -> None:
    virsh(fail=UNKNOWN)
    destroyed: list[int] = []
    mending.mend(record, lambda: destroyed.append(1), TapeObserver())
    assert destroyed == [1]


def test_libvirt_is_not_asked_about_a_machine_that_was_never_started(record: Record, virsh: Virsh) -> None:
    log = virsh(fail=NOBODY)
    layout.id_file(record).unlink()
    mending.adopt(record, TapeObserver())
    assert not log.exists()


def test_a_machine_that_is_there_is_left_alone(record: Record, virsh: Virsh) -> None:
    virsh(dominfo=text("off"))
    mending.mend(record, lambda: pytest.fail("it was destroyed"), TapeObserver())


@pytest.fixture
def boxed(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """A machine whose box Vagrant has: a disk of a thousand bytes."""
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    folder = tmp_path / "vagrant/boxes/mlvm-VAGRANTSLASH-x-1/0/libvirt"
    folder.mkdir(parents=True)
    (folder / "root.qcow2").write_bytes(b"x" * 1000)
    (folder / "metadata.json").touch()
    mending.prepare(record, "# none\n", box="mlvm/x-1", digest="0" * 64)
    return record


VOLUME = "mlvm-VAGRANTSLASH-x-1_vagrant_box_image_0_1795516448_root.img"
LISTED = f" Name   Path\n-----------\n {VOLUME}   /var/lib/libvirt/images/{VOLUME}\n other.img /x\n"


def physical(size: int) -> str:
    return f"<volume type='file'>\n  <physical unit='bytes'>{size}</physical>\n</volume>\n"


def test_half_a_box_in_the_pool_is_removed(boxed: Record, virsh: Virsh) -> None:
    log = virsh(vol_list=LISTED, vol_dumpxml=physical(999), vol_delete="")
    assert mending.drop_half_box(boxed) == VOLUME
    assert f"vol-delete {VOLUME} default" in log.read_text()


def test_a_whole_box_in_the_pool_stays(boxed: Record, virsh: Virsh) -> None:
    log = virsh(vol_list=LISTED, vol_dumpxml=physical(1000), vol_delete="")
    assert mending.drop_half_box(boxed) == ""
    assert "vol-delete" not in log.read_text()


def test_a_box_that_vagrant_has_is_found_without_it(boxed: Record) -> None:
    assert layout.has_box("mlvm/x-1", "libvirt")
    assert not layout.has_box("mlvm/x-1", "virtualbox")
    assert not layout.has_box("mlvm/x-2", "libvirt")


def test_machines_of_one_name_in_two_homes_have_two_domains(record: Record, tmp_path: Path) -> None:
    other_home = Home(data=tmp_path / "other", cache=tmp_path / "cache", runtime=tmp_path / "run")
    other = Record(name="lab", provider="vagrant", image_id="0" * 64, project="/x", home=other_home)
    assert layout.domain(record) != layout.domain(other)


def test_a_saved_domain_is_off_once_that_is_forgotten(virsh: Virsh) -> None:
    log = virsh(dominfo=text("saved"), managedsave_remove="Removed managedsave image for domain")
    assert domain.forget_saved(UUID)
    assert f"managedsave-remove {UUID}" in log.read_text()


def test_a_domain_that_is_paused_has_nothing_to_forget(virsh: Virsh) -> None:
    log = virsh(dominfo=text("running").replace("running", "paused"))
    assert not domain.forget_saved(UUID)
    assert "managedsave-remove" not in log.read_text()
