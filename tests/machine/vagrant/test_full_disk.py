"""Disks that are really full: Vagrant's, libvirt's before a machine is there, and libvirt's while it runs.

Each ends in an error that says what to do, and what was begun is in nobody's way once there is room. The disks are
small file systems in memory. The tests build on one another, in their order.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes import TapeObserver

from machine.vagrant.lab import Lab
from mlvm.errors import MachineError
from mlvm.events import SILENT
from mlvm.machine.provider import State
from mlvm.machine.record import load
from mlvm.machine.vagrant import domain, layout
from mlvm.machine.vagrant.provider import VagrantProvider
from mlvm.paths import Home, shipped
from mlvm.project import Project

pytestmark = [pytest.mark.vagrant, pytest.mark.boot, pytest.mark.heavy, pytest.mark.network]

BOX, NAME, POOL = "python-3.11", "cramped", "mlvm-test-full"
ROOT = Path(__file__).parents[3]
MIB = 1 << 20
#: Too little for the box, and enough for all that follows.
LITTLE, ENOUGH = 40, 4096
#: Written in the guest where there is room for a part of it.
LARGE, ROOM = 400, 100


@dataclass(frozen=True)
class Disk:
    """A file system in memory."""

    folder: Path

    def resize(self, mib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={mib}m", self.folder], check=True)

    @property
    def used(self) -> int:
        return int(subprocess.check_output(["du", "-sm", self.folder]).split()[0])


@contextmanager
def disk(folder: Path, mib: int) -> Iterator[Disk]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", folder], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def virsh(*words: str, check: bool = True) -> None:
    subprocess.run(["virsh", "-c", domain.address(), *words], check=check, capture_output=True)


@dataclass(frozen=True, kw_only=True)
class Cramped:
    """A project, and the two disks that its machine's parts go to."""

    project: Project
    boxes: Disk
    pool: Disk

    @property
    def lab(self) -> Lab:
        record = load(self.project.home, NAME)
        assert record is not None
        return Lab(project=self.project, record=record, provider=VagrantProvider())

    def up(self) -> TapeObserver:
        tape = TapeObserver()
        self.project.up(NAME, frozen=True, run_by="vagrant", observer=tape)
        return tape

    def refused(self) -> MachineError:
        with pytest.raises(MachineError) as caught:
            self.up()
        return caught.value


@pytest.fixture(scope="module")
def cramped(chain_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cramped]:
    subprocess.run([ROOT / "tools/libvirt-start"], check=True)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        boxes = stack.enter_context(disk(tmp_path_factory.mktemp("vagrant"), LITTLE))
        pool = stack.enter_context(disk(tmp_path_factory.mktemp("pool"), LITTLE))
        patch.setenv("VAGRANT_HOME", str(boxes.folder))
        patch.setenv("MLVM_LIBVIRT_POOL", POOL)
        virsh("pool-define-as", POOL, "dir", "--target", str(pool.folder))
        stack.callback(virsh, "pool-undefine", POOL, check=False)
        virsh("pool-start", POOL)
        stack.callback(virsh, "pool-destroy", POOL, check=False)
        found = Cramped(
            project=Project(folder=shipped("boxes") / BOX, home=chain_home), boxes=boxes, pool=pool
        )
        stack.callback(remove, found)
        yield found


def remove(cramped: Cramped) -> None:
    record = load(cramped.project.home, NAME)
    if record is not None and record.folder.exists():
        VagrantProvider().destroy(record, observer=SILENT)


def test_a_full_disk_of_vagrant_s_is_an_error_in_words(cramped: Cramped) -> None:
    refused = cramped.refused()
    assert refused.message == "the disk is full"
    assert f"mlvm up --name {NAME}" in refused.hint


def test_nothing_of_the_box_is_taken_for_whole(cramped: Cramped) -> None:
    assert not list(cramped.boxes.folder.rglob("metadata.json"))


def test_a_full_pool_of_libvirt_s_is_an_error_in_words(cramped: Cramped) -> None:
    cramped.boxes.resize(ENOUGH)
    refused = cramped.refused()
    assert refused.message == "there is no room for the box where libvirt keeps disks"
    assert f"virsh pool-info {POOL}" in refused.hint


def test_half_a_box_is_not_left_there(cramped: Cramped) -> None:
    assert not list(cramped.pool.folder.iterdir())


def test_with_room_the_same_command_brings_it_up(cramped: Cramped) -> None:
    cramped.pool.resize(ENOUGH)
    cramped.up()
    assert cramped.lab.state is State.RUNNING
    assert cramped.lab.says("hostname") == NAME


def test_a_disk_that_fills_up_while_it_runs_stops_the_machine_and_says_so(cramped: Cramped) -> None:
    cramped.lab.says("sh", "-c", "echo kept > ~/kept && sync")
    cramped.pool.resize(cramped.pool.used + ROOM)
    write = f"nohup dd if=/dev/zero of=large bs=1M count={LARGE} conv=fsync > /dev/null 2>&1 < /dev/null &"
    cramped.lab.says("sh", "-c", f"cd && {write}")
    deadline = time.monotonic() + 300
    while (found := VagrantProvider().state(cramped.lab.record)).state is not State.SUSPENDED:
        assert time.monotonic() < deadline, found
        time.sleep(2)
    assert "its disk is full on the host" in found.reasons[0]


def test_it_goes_on_where_it_was_once_there_is_room(cramped: Cramped) -> None:
    cramped.pool.resize(ENOUGH)
    cramped.up()
    assert cramped.lab.says("cat", "kept") == "kept"
    done = "while pgrep -x dd > /dev/null; do sleep 1; done; stat --format=%s ~/large"
    assert cramped.lab.says("sh", "-c", done) == str(LARGE * MIB)


def test_all_of_it_can_be_removed(cramped: Cramped) -> None:
    name, record = layout.domain(cramped.lab.record), cramped.lab.record
    VagrantProvider().destroy(record, observer=SILENT)
    assert domain.find(name) is None
