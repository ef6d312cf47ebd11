"""The provider's contract on a machine that Vagrant and libvirt really run, from the committed lock of a shipped box.

The tests build on one another, in their order: one machine is brought up once, as that takes minutes under emulation.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from fakes import TapeObserver
from nbclient import NotebookClient

from machine.vagrant.lab import Lab
from mlvm import files
from mlvm.box import vagrantfile
from mlvm.errors import MachineError, MlvmError
from mlvm.events import SILENT
from mlvm.kernel import kernelspec
from mlvm.machine.provider import State
from mlvm.machine.vagrant import domain, layout, looking, tunnel
from mlvm.machine.vagrant.provider import VagrantProvider
from mlvm.paths import Home, shipped
from mlvm.project import Project

#: `boot`, because what runs the guest's instructions is tried by booting one.
pytestmark = [pytest.mark.vagrant, pytest.mark.boot, pytest.mark.heavy, pytest.mark.network]

BOX, NAME = "python-3.11", "driven"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def lab(chain_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The machine, up; Vagrant has a home of its own."""
    subprocess.run([ROOT / "tools/libvirt-start"], check=True)
    project = Project(folder=shipped("boxes") / BOX, home=chain_home)
    provider, tape = VagrantProvider(), TapeObserver()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAGRANT_HOME", str(tmp_path_factory.mktemp("vagrant")))
        record = None
        try:
            record = project.up(NAME, frozen=True, run_by="vagrant", observer=tape)
            yield Lab(project=project, record=record, provider=provider, stages=tape.stages)
        finally:
            lock = project.lock()
            if record is not None and record.folder.exists():
                provider.destroy(record, observer=SILENT)
            assert lock is not None
            for _ in range(3):  # one for each time that the box was added
                domain.drop_cut_short(vagrantfile.box_name(lock), size=1 << 60)


def test_the_stages_of_a_start_are_told_in_order(lab: Lab) -> None:
    told = [one for one in lab.stages if one not in {"build", "download"}]
    assert told == ["pack", "box", "firmware", "guest kernel", "init", "agent"] or told == [
        "pack", "box", "box", "firmware", "guest kernel", "init", "agent"
    ]  # fmt: skip


def test_it_runs(lab: Lab) -> None:
    assert lab.state is State.RUNNING


def test_looking_takes_no_ruby(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mlvm.machine.vagrant.provider.Driven.state_word", lambda _: pytest.fail("Ruby was started")
    )
    began = time.monotonic()
    assert lab.state is State.RUNNING
    assert time.monotonic() - began < 5


def test_its_box_is_kept_once(lab: Lab) -> None:
    assert not layout.box_file(lab.record).exists()


def test_it_bears_its_name(lab: Lab) -> None:
    assert lab.says("hostname") == NAME


def test_a_program_runs_as_the_box_s_user(lab: Lab) -> None:
    assert lab.says("id", "-un") == "vagrant"


def test_a_file_goes_in_and_out(lab: Lab) -> None:
    guest = lab.provider.guest(lab.record)
    guest.put("/etc/mlvm-test", b"x" * 200_000)
    assert guest.get("/etc/mlvm-test") == b"x" * 200_000


def test_ssh_opens_it_and_checks_the_key(lab: Lab) -> None:
    command = [*lab.provider.ssh_command(lab.record), "hostname"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == NAME
    assert "StrictHostKeyChecking yes" in layout.ssh_config(lab.record).read_text()


def test_an_up_of_a_running_machine_changes_nothing(lab: Lab) -> None:
    assert lab.up().stages == []


def test_a_notebook_runs_in_it(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    kernelspec.install(lab.project.spec(), lab.project.folder, name=NAME, machine=NAME, prefix=tmp_path)
    cell = nbformat.v4.new_code_cell("import platform\nprint(platform.node(), 6 * 7)")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    NotebookClient(notebook, kernel_name=NAME, timeout=600, startup_timeout=600).execute()
    assert notebook.cells[0].outputs[0].text == f"{NAME} 42\n"


def test_the_project_s_own_notebook_runs_in_it(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    kernelspec.install(lab.project.spec(), lab.project.folder, name=NAME, machine=NAME, prefix=tmp_path)
    notebook = nbformat.read(lab.project.folder / "verify.ipynb", as_version=4)
    NotebookClient(notebook, kernel_name=NAME, timeout=900, startup_timeout=600).execute()


def test_nothing_of_it_listens_beyond_loopback(lab: Lab) -> None:
    ports = lab.provider.forward(lab.record, {"ssh": 22})
    try:
        listening = subprocess.run(["ss", "-tlnHp"], capture_output=True, text=True, check=True).stdout
        ours = [line.split()[3] for line in listening.splitlines() if '"ssh"' in line]
        assert ours
        assert all(address.startswith("127.0.0.1:") for address in ours)
    finally:
        lab.provider.unforward(lab.record, ports)


def test_a_taken_port_is_an_error_that_names_it(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(MachineError, match=f"port {taken} of this host is taken"):
            lab.provider.forward(lab.record, {"a": 22}, host_ports={"a": taken})


def test_a_dead_connection_is_opened_again(lab: Lab) -> None:
    tunnel.close(lab.record)
    assert lab.says("hostname") == NAME


def test_what_it_uses_is_told(lab: Lab) -> None:
    used = lab.provider.usage(lab.record, ask=True)
    assert used is not None
    assert used.cpu_seconds
    assert used.guest_memory


def test_a_suspended_machine_goes_on_where_it_was_with_the_right_time(lab: Lab) -> None:
    pid = lab.says("sh", "-c", "sleep 100000 > /dev/null 2>&1 & echo $!")
    lab.provider.suspend(lab.record, observer=SILENT)
    assert lab.state is State.SUSPENDED
    time.sleep(15)
    lab.up()
    assert lab.says("ps", "-o", "comm=", "-p", pid) == "sleep"
    assert abs(float(lab.says("date", "+%s.%N")) - time.time()) < 10


def test_a_suspended_machine_can_be_stopped(lab: Lab) -> None:
    lab.provider.suspend(lab.record, observer=SILENT)
    lab.provider.stop(lab.record, observer=SILENT)
    assert lab.state is State.STOPPED
    lab.up()
    assert lab.says("hostname") == NAME


def test_it_goes_back_to_a_snapshot(lab: Lab) -> None:
    lab.says("sh", "-c", "echo before > /tmp/mark")
    lab.provider.snapshot(lab.record, "one", observer=SILENT)
    lab.says("sh", "-c", "echo after > /tmp/mark")
    assert [one.name for one in lab.provider.snapshots(lab.record)] == ["one"]
    lab.provider.go_back(lab.record, None, "one", observer=SILENT)  # type: ignore[arg-type]
    assert lab.says("cat", "/tmp/mark") == "before"
    assert abs(float(lab.says("date", "+%s.%N")) - time.time()) < 10


def test_a_snapshot_goes(lab: Lab) -> None:
    lab.provider.forget_snapshot(lab.record, "one", observer=SILENT)
    assert lab.provider.snapshots(lab.record) == []


def test_a_machine_that_vagrant_has_lost_sight_of_is_found_again(lab: Lab) -> None:
    noted = layout.id_file(lab.record).read_text()
    layout.id_file(lab.record).unlink()
    tape = lab.up()
    assert layout.id_file(lab.record).read_text() == noted
    assert any("lost sight" in note for note in tape.notes)


def test_a_damaged_note_is_made_anew(lab: Lab) -> None:
    noted = layout.id_file(lab.record).read_text()
    layout.id_file(lab.record).write_text("junk")
    assert "damaged" in lab.provider.state(lab.record).reasons[0]
    lab.up()
    assert layout.id_file(lab.record).read_text() == noted


def test_a_stopped_machine_keeps_its_disk(lab: Lab) -> None:
    lab.says("sh", "-c", "echo kept > ~/kept")
    lab.provider.stop(lab.record, observer=SILENT)
    assert lab.state is State.STOPPED
    lab.provider.stop(lab.record, observer=SILENT)  # twice is no error
    lab.up()
    assert lab.says("sh", "-c", "cat ~/kept") == "kept"


def up_when_free(lab: Lab) -> None:
    """Bring it up; a Vagrant that is left over may go on for a while, and whoever meets it is told to wait."""
    deadline = time.monotonic() + 900
    while True:
        try:
            lab.up()
        except MlvmError as busy:
            if "another Vagrant works" not in busy.message or time.monotonic() > deadline:
                raise
            time.sleep(5)
        else:
            return


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_up_goes_on_after_a_kill_in_the_middle(lab: Lab, number: int) -> None:
    lab.provider.stop(lab.record, observer=SILENT)
    command = [sys.executable, "-m", "mlvm.cli", "up", BOX, "--name", NAME, "--frozen", "--progress", "none"]
    environment = {**os.environ, "MLVM_HOME": str(lab.project.home.data.parent)}
    with subprocess.Popen(command, env=environment) as child:
        deadline = time.monotonic() + 300
        while not (found := domain.find(looking.vagrant_id(lab.record))) or not found.run:
            assert time.monotonic() < deadline
            time.sleep(0.5)
        child.send_signal(number)
    up_when_free(lab)
    assert lab.says("sh", "-c", "cat ~/kept") == "kept"


def test_a_machine_that_is_gone_behind_vagrant_s_back_is_made_anew(lab: Lab) -> None:
    noted = looking.vagrant_id(lab.record)
    tunnel.close(lab.record)
    for words in (["destroy", noted], ["undefine", noted, "--managed-save"]):
        subprocess.run(["virsh", "-c", domain.address(), *words], check=True, capture_output=True)
    assert "libvirt has lost it" in lab.provider.state(lab.record).reasons[0]
    lab.up()
    assert lab.says("sh", "-c", "test ! -e ~/kept && echo new") == "new"


def test_nothing_is_left_after_destroy(lab: Lab) -> None:
    name = layout.domain(lab.record)
    lab.provider.destroy(lab.record, observer=SILENT)
    assert lab.state is State.ABSENT
    assert domain.find(name) is None
    assert not layout.seed_folder(lab.record).exists()
    assert files.disk_used(lab.record.folder) == 0
