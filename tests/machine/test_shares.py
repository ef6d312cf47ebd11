"""What machines may take of a host they share: cgroups where they are ours, niceness elsewhere, QEMU's own limits."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlvm.cli import run
from mlvm.errors import MachineError
from mlvm.machine.provider import Limits
from mlvm.machine.qemu import argv, cpu_share, qmp, shares
from mlvm.machine.qemu.argv import RamFile
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.machine.record import Record
from mlvm.paths import Home
from mlvm.spec.document import GIB, MIB, MachineShape

MACHINE = Path("/data/machines/one")


class Tape:
    """A monitor that remembers what it was told, and answers what it was given."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.told: list[tuple[str, dict[str, Any]]] = []

    def execute(self, command: str, **arguments: Any) -> Any:
        if command in self.answers:
            return self.answers[command]
        self.told.append((command, arguments))
        return {}

    def execute_with(self, command: str, arguments: dict[str, Any]) -> Any:
        return self.execute(command, **arguments)


DISKS = {"query-block": [{"qdev": "/a"}, {"qdev": "/b"}, {"device": "nobody's"}]}
BALLOON = {"qom-list": [{"name": "type"}, {"name": argv.BALLOON}]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A host's cgroups as files, with ours at `user/session`: `user` and all below it are ours to change."""
    cgroups = tmp_path / "cgroup"
    for group, enabled in (("", "cpu memory"), ("user", "memory"), ("user/session", "")):
        folder = cgroups / group
        folder.mkdir(parents=True)
        (folder / "cgroup.controllers").write_text("cpu memory")
        (folder / "cgroup.subtree_control").write_text(enabled)
        (folder / "cgroup.procs").write_text("")
        if group:
            (folder / "cgroup.type").write_text("domain")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("1:name=old:/\n0::/user/session\n")
    return tmp_path


def find(tree: Path) -> Path | None:
    return cpu_share.find_group(tree / "cgroup", tree / "proc")


def test_the_highest_group_that_may_be_changed_is_taken(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = {tree / "cgroup", *(tree / "cgroup").glob("cgroup.*")}
    monkeypatch.setattr(os, "access", lambda path, _: path not in foreign)

    assert find(tree) == tree / "cgroup/user"


def test_a_group_with_processes_of_its_own_cannot_share_out(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = {tree / "cgroup", *(tree / "cgroup").glob("cgroup.*")}
    monkeypatch.setattr(os, "access", lambda path, _: path not in foreign)
    (tree / "cgroup/user/cgroup.procs").write_text("1\n")

    assert find(tree) == tree / "cgroup/user/session"


@pytest.mark.parametrize("text", ["4:cpu:/user\n", ""])
def test_hosts_without_the_second_version_have_none(tree: Path, text: str) -> None:
    (tree / "proc/self/cgroup").write_text(text)

    assert find(tree) is None


def test_a_leaf_of_its_own(tree: Path) -> None:
    group = tree / "cgroup/mlvm"
    group.mkdir()  # as the kernel makes it: with its files
    (group / "cgroup.subtree_control").write_text("")

    said = cpu_share.give(77, 250, MACHINE, cgroups=tree / "cgroup", proc=tree / "proc")

    (leaf,) = (path for path in group.iterdir() if path.is_dir())
    assert said == ""
    assert (group / "cgroup.subtree_control").read_text() == "+cpu"
    assert ((leaf / "cpu.weight").read_text(), (leaf / "cgroup.procs").read_text()) == ("250", "77")


@pytest.mark.parametrize(
    ("weight", "nice"),
    [(100, 0), (80, 1), (50, 3), (10, 10), (2, 18), (1, 19), (125, -1), (1000, -10), (10000, -20)],
)
def test_weights_as_niceness(weight: int, nice: int) -> None:
    assert cpu_share.niceness(weight) == nice


@pytest.fixture
def child() -> Iterator[int]:
    # Of a session of its own: what is nice with it is its whole session.
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process.pid
        process.kill()


def test_without_cgroups_it_is_made_nice(child: int, tree: Path) -> None:
    (tree / "proc/self/cgroup").write_text("")
    os.setpriority(os.PRIO_PROCESS, child, 9 if os.getpriority(os.PRIO_PROCESS, 0) < 10 else 18)

    said = cpu_share.give(child, 2, MACHINE, cgroups=tree / "cgroup")

    assert (said, os.getpriority(os.PRIO_PROCESS, child)) == ("", cpu_share.niceness(2))


def test_what_is_not_allowed_is_said(child: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)

    assert cpu_share.set_niceness(child, -5).startswith("niceness -5 is not this user's to give")


def test_all_disks_share_one_limit() -> None:
    monitor = Tape(**DISKS)

    shares.limit_disks(monitor, 500)  # type: ignore[arg-type]

    wanted = {"bps": 0, "bps_rd": 0, "bps_wr": 0, "iops_rd": 0, "iops_wr": 0, "iops": 500, "group": "machine"}
    assert monitor.told == [
        ("block_set_io_throttle", {"id": "/a", **wanted}),
        ("block_set_io_throttle", {"id": "/b", **wanted}),
    ]


def test_a_limit_is_taken_away() -> None:
    monitor = Tape(**DISKS)

    shares.limit_disks(monitor, 0)  # type: ignore[arg-type]

    assert [told["iops"] for _, told in monitor.told] == [0, 0]
    assert "group" not in monitor.told[0][1]


def a_record(home: Home, **shape: Any) -> Record:
    return Record(
        name="one", provider="qemu", image_id="0" * 64, project="/p", home=home, shape=MachineShape(**shape)
    )


def test_a_machine_without_limits_is_told_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_share, "find_group", lambda: None)
    monitor = Tape(**DISKS)

    assert shares.apply(a_record(home), os.getpid(), monitor) == []  # type: ignore[arg-type]
    assert monitor.told == []


def test_memory_goes_down_and_up_in_its_bounds(home: Home) -> None:
    monitor = Tape(**BALLOON)
    shape = MachineShape(memory=2 * GIB, memory_min=512 * MIB)

    shares.set_memory(monitor, shape, 512 * MIB, name="one")  # type: ignore[arg-type]
    shares.set_memory(monitor, shape, 2 * GIB, name="one")  # type: ignore[arg-type]

    assert monitor.told == [("balloon", {"value": 512 * MIB}), ("balloon", {"value": 2 * GIB})]


@pytest.mark.parametrize("size", [256 * MIB, 3 * GIB])
def test_memory_out_of_its_bounds(size: int) -> None:
    with pytest.raises(MachineError, match=f"`one` can have 512 to 2048 MiB, and not {size // MIB}"):
        shares.set_memory(Tape(**BALLOON), MachineShape(memory_min=512 * MIB), size, name="one")  # type: ignore[arg-type]


def test_memory_without_bounds_stays(home: Home) -> None:
    monitor = Tape(**BALLOON)

    with pytest.raises(MachineError, match="keeps the memory it has"):
        shares.change(a_record(home), os.getpid(), monitor, Limits(memory=GIB))  # type: ignore[arg-type]
    assert monitor.told == []


def test_a_machine_from_before_the_bounds(home: Home) -> None:
    with pytest.raises(MachineError, match="was started before its memory had bounds"):
        shares.set_memory(
            Tape(**{"qom-list": [{"name": "type"}]}),
            MachineShape(memory_min=GIB),
            GIB,
            name="one",  # type: ignore[arg-type]
        )


def test_the_device_that_takes_memory_back() -> None:
    assert argv.balloon_args(True, None) == [
        "-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on"
    ]  # fmt: skip
    assert argv.balloon_args(False, None) == []


def test_a_machine_that_gives_memory_back_never_starts_warm(home: Home) -> None:
    record = a_record(home, memory=GIB, memory_min=GIB)

    assert not QemuProvider().has_warm(record, None)  # type: ignore[arg-type]


def test_a_machine_whose_memory_is_a_file_never_has_it() -> None:
    assert argv.balloon_args(False, RamFile(path=Path("/ram"), shared=False)) == []
    with pytest.raises(AssertionError):
        argv.balloon_args(True, RamFile(path=Path("/ram"), shared=False))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: what should change?"),
        (["--cpu-weight", "0"], "error: `--cpu-weight 0` is out of range: 1 to 10000"),
        (["--disk-iops", "5"], "error: `--disk-iops 5` is out of range: 10 to 10000000"),
        (["--memory", "1G"], "error: --memory: `1G` is not how sizes are written here; write `1 GiB`"),
    ],
)
def test_set_says_what_is_wrong(
    words: list[str], said: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["set", "one", *words]) == 9
    assert capsys.readouterr().err.splitlines()[0] == said


def test_limits_of_a_machine_that_does_not_run(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    record = replace(a_record(home), project=str(home.data))
    record.folder.mkdir(parents=True)
    (record.folder / argv.OVERLAY).touch()
    from mlvm.machine.record import save

    save(record)

    assert run(["set", "one", "--cpu-weight", "50"]) == 9
    assert capsys.readouterr().err.startswith(
        "error: cannot change the limits of machine `one`: it is stopped"
    )


@pytest.mark.boot
def test_qemu_itself_takes_the_limits(tmp_path: Path) -> None:
    """Two disks as ours are attached, and no guest: QEMU says afterwards what holds."""
    overlay = tmp_path / "overlay.img"
    overlay.write_bytes(bytes(1 << 20))
    words = [
        *("qemu-system-x86_64", "-S", *argv.confinement_args(), "-machine", "q35"),
        *argv.overlay_args(overlay),
        *argv.monitor_args(tmp_path / "qmp.sock"),
    ]
    with subprocess.Popen(words) as process:
        try:
            for _ in range(600):
                if (tmp_path / "qmp.sock").exists():
                    break
                time.sleep(0.1)
            with qmp.connect(tmp_path / "qmp.sock") as monitor:
                shares.limit_disks(monitor, 500)
                (limited,) = (one["inserted"] for one in monitor.execute("query-block") if one.get("qdev"))
                shares.limit_disks(monitor, 0)
                (free,) = (one["inserted"] for one in monitor.execute("query-block") if one.get("qdev"))
        finally:
            process.kill()

    assert (limited["iops"], limited["group"], free["iops"]) == (500, "machine", 0)
