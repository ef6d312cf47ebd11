"""Machines on standby: ready before they are asked for, given to one fresh machine each, and nobody's before."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlvm.events import SILENT
from mlvm.machine import create
from mlvm.machine.qemu import sharing, standby
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.machine.record import Record, load
from mlvm.paths import Home
from mlvm.project import Project

from .test_warm import DRAW, PYTHON, Notebook, Tape

pytestmark = [pytest.mark.boot, pytest.mark.network]


@pytest.fixture(autouse=True, scope="module")
def allowed(chain_home: Home) -> Iterator[None]:
    """Take what is on standby; make nothing in the background."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLVM_WARM", "use")
        yield
    standby.end(chain_home)


@pytest.fixture(scope="module")
def project(numpy_project: Project) -> Project:
    return numpy_project


def up(project: Project, name: str) -> tuple[Record, Tape]:
    """Bring up a fresh machine; return its record as it is kept, and what was said."""
    tape = Tape()
    project.up(name, frozen=True, observer=tape)
    record = load(project.home, name)
    assert record is not None
    return record, tape


def destroy(record: Record) -> None:
    QemuProvider().destroy(record, observer=SILENT)


def test_two_machines_one_after_the_other_share_nothing_but_what_they_are_made_of(project: Project) -> None:
    told: list[dict[str, str]] = []
    processes: list[int] = []
    for name in ("first", "second"):
        assert project.make_standby()
        (waiting,) = standby.every(project.home)
        record, tape = up(project, name)
        notebook = Notebook(QemuProvider(), record)

        drawn = json.loads(notebook.run(DRAW))
        for what, command in {
            "hostname": "hostname",
            "machine id": "cat /etc/machine-id",
            "mac": "cat /sys/class/net/eth0/address",
            "host key": "sudo cat /etc/ssh/ssh_host_ed25519_key",
            "authorized": "cat ~/.ssh/authorized_keys",
            "uuid of the guest kernel": "cat /proc/sys/kernel/random/uuid",
        }.items():
            drawn[what] = notebook.guest.run(["sh", "-c", command]).stdout.decode().strip()
        notebook.close()
        told.append(drawn)
        processes.append(waiting.run.pid)

        assert tape.stages == ["warm"]
        assert drawn["hostname"] == name
        assert drawn["mac"] == record.mac
        assert json.loads((record.folder / "run.json").read_text())["pid"] == waiting.run.pid
        assert standby.every(project.home) == []
        destroy(record)

    first, second = told
    assert [what for what in first if not first[what] or first[what] == second[what]] == []
    assert processes[0] != processes[1]


def test_a_taken_machine_is_a_machine_like_any_other(project: Project) -> None:
    """Nothing of the rehearsal is in it; its clock is right; ssh works; it suspends, resumes, stops and boots.

    It has its folder, and from the server that waited with it.
    """
    assert project.make_standby()
    (waiting,) = standby.every(project.home)
    server = json.loads((waiting.record.folder / sharing.SERVER).read_text())["pid"]
    time.sleep(3)  # paused meanwhile
    (project.folder / "seen").write_text("the host's\n")
    record, _ = up(project, "ordinary")
    provider = QemuProvider()
    guest = provider.guest(record)
    seen = ["cat", f"/work/{project.folder.name}/seen"]
    assert guest.share_status()["failed"] == {}
    assert guest.run(seen).stdout == b"the host's\n"
    assert json.loads((record.folder / sharing.SERVER).read_text())["pid"] == server
    notebook = Notebook(provider, record)
    notebook.run("kept = 1")

    assert abs(float(guest.run(["date", "+%s.%N"]).stdout) - time.time()) < 1
    names = notebook.run("print(sorted(name for name in globals() if not name.startswith('_')))")
    assert names.strip() == "['In', 'Out', 'exit', 'get_ipython', 'kept', 'open', 'quit']"
    ps = guest.run(["ps", "-eo", "args"]).stdout.decode()
    assert ps.count("nursery.py") == 2  # the nursery, and the kernel that was claimed
    notebook.close()

    provider.suspend(record, observer=SILENT)
    project.up("ordinary", frozen=True)
    assert provider.guest(record).poll_kernel(notebook.kernel.kernel_id) is None
    assert provider.ssh_command(record)[-1] == "mlvm-ordinary"
    provider.guest(record).run(["sh", "-c", "echo mine > ~/file"])
    provider.stop(record, observer=SILENT)
    project.up("ordinary", frozen=True)
    assert provider.guest(record).run(["sh", "-c", "cat ~/file"]).stdout == b"mine\n"
    assert provider.guest(record).run(seen, cwd="/").stdout == b"the host's\n"
    destroy(record)


def test_it_is_paused_and_listens_nowhere(project: Project) -> None:
    assert project.make_standby()
    (waiting,) = standby.every(project.home)

    before = cpu_ticks(waiting.run.pid)
    time.sleep(2)

    assert cpu_ticks(waiting.run.pid) - before <= 2
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    theirs = {str(fd.readlink()) for fd in Path(f"/proc/{waiting.run.pid}/fd").iterdir()}
    assert not listening & theirs


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_one_that_has_died_is_a_warm_start_all_the_same(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project.make_standby()
    (waiting,) = standby.every(project.home)
    os.kill(waiting.run.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while standby.every(project.home) and time.monotonic() < deadline:
        time.sleep(0.05)

    monkeypatch.setenv("MLVM_SHARE", "off")
    record, tape = up(project, "orphan")

    assert tape.stages == ["warm"]
    assert QemuProvider().guest(record).run([PYTHON, "-c", "print(1)"]).stdout == b"1\n"
    assert not sharing.lives(record)
    destroy(record)


def test_one_that_does_not_answer_is_a_start_all_the_same(project: Project) -> None:
    assert project.make_standby()
    (waiting,) = standby.every(project.home)
    for port in waiting.record.home.sockets(waiting.record.name).glob("agent-*.sock"):
        port.unlink()

    record, _ = up(project, "deaf")

    assert json.loads((record.folder / "run.json").read_text())["pid"] != waiting.run.pid
    assert QemuProvider().guest(record).run(["hostname"]).stdout == b"deaf\n"
    destroy(record)


def test_another_shape_is_not_it(project: Project, tmp_path: Path) -> None:
    assert project.make_standby()
    (waiting,) = standby.every(project.home)
    image = project.build(frozen=True)
    record = create.record_of(project.home, "x", image=image, spec=project.spec(), project=project.folder)
    provider = QemuProvider()

    assert provider.has_warm(record, image)
    standby.end(project.home, minutes=1)
    assert [one.run.pid for one in standby.every(project.home)] == [waiting.run.pid]
    assert standby.end(project.home) == 1
    assert not provider.has_warm(record, image)
