"""A running machine becomes more: kernels, variables and files are in each, and nothing else is the same.

Boots are dear under emulation: one machine, what became of it, and tests in the order of their lives.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from fakes import Tape
from jupyter_core.utils import ensure_event_loop

from mlvm.cli import run as mlvm
from mlvm.errors import MachineError
from mlvm.events import SILENT
from mlvm.image.document import Image
from mlvm.machine import create
from mlvm.machine import record as records
from mlvm.machine.provider import State
from mlvm.machine.qemu import forks
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.machine.qemu.starting import Starter
from mlvm.machine.record import Record
from mlvm.project import Project
from mlvm.spec.document import GIB, MIB, MachineShape

from .frontend import Notebook

pytestmark = [pytest.mark.boot, pytest.mark.network]

SHAPE = MachineShape(cpus=2, memory=768 * MIB, disk=GIB)
PREPARE = """
import random, tempfile, ssl, uuid, os, json, threading, time, numpy
x, big = 41, numpy.ones(2_000_000)
random.seed(1); numpy.random.seed(1); next(tempfile._get_candidate_names())
"""
DRAW = """
k = get_ipython().kernel
print(json.dumps({
    "urandom": os.urandom(16).hex(), "uuid4": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()),
    "random": random.random(), "tempfile": next(tempfile._get_candidate_names()),
    "ssl": ssl.RAND_bytes(16).hex(),
    "numpy legacy": numpy.random.random(), "numpy generator": numpy.random.default_rng().random(),
    "session": k.session.session, "key": k.session.key.decode(), "ident": k.ident,
    "ports": sorted(k._recorded_ports.values()),
}))
"""
TOLD = {
    "hostname": "hostname",
    "machine id": "cat /etc/machine-id",
    "mac": "cat /sys/class/net/eth0/address",
    "host key": "sudo ssh-keygen -yf /etc/ssh/ssh_host_ed25519_key",
    "who may log in": "cat ~/.ssh/authorized_keys",
    "urandom of the guest": "head -c 16 /dev/urandom | od -x",
    "uuid of the guest kernel": "cat /proc/sys/kernel/random/uuid",
}


class Family:
    """A machine, its notebook, and what has become of it."""

    def __init__(self, provider: QemuProvider, image: Image, parent: Record, children: list[Record]) -> None:
        self.provider, self.image, self.parent, self.children = provider, image, parent, children
        self.notebook = Notebook(provider, parent)

    def fork(self, record: Record, *names: str) -> list[Record]:
        copies = create.forks_of(record, names)
        self.provider.fork(record, self.image, copies, observer=SILENT)
        found = [records.load(record.home, name) for name in names]
        made = [one for one in found if one is not None]
        self.children += made
        return made


@pytest.fixture(scope="module")
def family(numpy_project: Project) -> Iterator[Family]:
    """A machine whose notebook has variables, and two forks of it."""
    project, provider = numpy_project, QemuProvider(warm=False)
    image, spec = project.build(frozen=True), replace(project.spec(), machine=SHAPE, preload=())
    parent = create.ensure(project.home, "parent", image=image, spec=spec, project=project.folder)
    children: list[Record] = []
    try:
        provider.start(parent, image, observer=SILENT).put("/home/mlvm/file", b"of the parent")
        made = Family(provider, image, parent, children)
        made.notebook.run(PREPARE)
        provider.ssh_command(parent)  # from here on its sshd runs, and has read the parent's key
        made.fork(parent, "first", "second")
        yield made
        made.notebook.hang_up()
    finally:
        for record in (parent, *children):
            provider.destroy(record, observer=SILENT)


@pytest.fixture(scope="module")
def notebooks(family: Family) -> Iterator[list[Notebook]]:
    """The parent's notebook, and one in each child that has claimed the kernel there."""
    theirs = [Notebook(family.provider, child) for child in family.children[:2]]
    yield [family.notebook, *theirs]
    for notebook in theirs:
        notebook.hang_up()


def test_variables_are_there_and_part_from_then_on(notebooks: list[Notebook]) -> None:
    seen = [notebook.run("x, big.sum()") for notebook in notebooks]
    for number, notebook in enumerate(notebooks):
        notebook.run(f"x += {number}")

    assert seen == ["(41, np.float64(2000000.0))"] * 3
    assert [notebook.run("x") for notebook in notebooks] == ["41", "42", "43"]


def test_the_machine_itself_notices_nothing(family: Family, notebooks: list[Notebook]) -> None:
    """Its kernel, keys, ports, and the frontend that was connected when it was forked are what they were."""
    guest = family.provider.guest(family.parent)

    assert guest.poll_kernel(family.notebook.kernel.kernel_id) is None
    assert guest.waiting_kernels() == []
    assert notebooks[0].run("get_ipython().kernel.session.key.decode()") == repr(family.notebook.key)
    assert abs(float(guest.run(["date", "+%s.%N"]).stdout) - time.time()) < 1


def test_no_two_share_a_secret_a_name_or_a_random_number(family: Family, notebooks: list[Notebook]) -> None:
    told = []
    for notebook in notebooks:
        mine = json.loads(notebook.run(DRAW))
        mine |= {
            what: notebook.guest.run(["sh", "-c", command]).stdout.decode().strip()
            for what, command in TOLD.items()
        }
        mine["kernel id"] = notebook.kernel.kernel_id
        told.append(mine)

    for one, two in combinations(told, 2):
        assert [what for what in one if not one[what] or one[what] == two[what]] == []
    for mine, record in zip(told, (family.parent, *family.children), strict=False):
        assert (mine["hostname"], mine["mac"]) == (record.name, record.mac)
        assert len(mine["who may log in"].splitlines()) == 1


def test_ssh_knows_each_of_them(family: Family) -> None:
    """Also where an sshd ran when the machine was forked: the key it shows is the child's own."""
    for record in (family.parent, *family.children[:2]):
        command = [*family.provider.ssh_command(record), "hostname"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        assert (done.stdout.decode(), done.stderr) == (f"{record.name}\n", b"")


def test_disks_part(family: Family) -> None:
    guests = [family.provider.guest(record) for record in (family.parent, *family.children[:2])]
    seen = [guest.get("/home/mlvm/file") for guest in guests]
    for guest, record in zip(guests, (family.parent, *family.children), strict=False):
        guest.put("/home/mlvm/file", record.name.encode())
        guest.sync()

    assert seen == [b"of the parent"] * 3
    assert [guest.get("/home/mlvm/file") for guest in guests] == [b"parent", b"first", b"second"]


def test_they_share_what_they_have_not_changed(family: Family) -> None:
    """RAM and disk of a child are a fraction of what it was forked with."""
    (fork,) = forks.items(family.parent.home)
    child = family.children[0]
    ram = family.parent.home.forks / fork.id / forks.RAM

    assert fork.used_by == ("machine first", "machine second")
    assert _private(child, ram) < ram.stat().st_blocks * 512 / 2
    assert (child.folder / "overlay.img").stat().st_blocks * 512 < 20 << 20


def test_a_fork_of_a_fork(family: Family) -> None:
    child = family.children[0]
    (grandchild,) = family.fork(child, "grandchild")

    notebook = Notebook(family.provider, grandchild)

    assert notebook.run("x") == "42"
    assert family.provider.guest(grandchild).get("/home/mlvm/file") == b"first"
    assert len(grandchild.forks) == 2
    notebook.close()


def run(notebook: Notebook, code: str) -> None:
    """Run a cell from a thread. A thread's client makes an event loop, and leaves it to whoever started the thread."""
    with closing(ensure_event_loop()):
        notebook.run(code)


def test_a_cell_that_runs_goes_on_in_both(family: Family) -> None:
    notebook = family.notebook
    done = threading.Thread(target=run, args=(notebook, "for n in range(100): time.sleep(0.1)\nx = 'done'"))
    done.start()
    time.sleep(1)
    (busy,) = family.fork(family.parent, "busy")
    other = Notebook(family.provider, busy)
    done.join()

    assert (notebook.run("x"), other.run("x")) == ("'done'", "'done'")
    other.close()
    family.provider.destroy(busy, observer=SILENT)


def test_a_taken_name_is_refused_and_nothing_is_done(
    family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    before = records.names(family.parent.home)

    assert mlvm(["fork", "parent", "second"]) == 9

    assert "there is a machine `second` already" in capsys.readouterr().err
    assert records.names(family.parent.home) == before


def test_a_failure_half_way_leaves_nothing(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of three does not come up: none of them is there, and the machine goes on."""
    before = (records.names(family.parent.home), forks.items(family.parent.home))
    begin = Starter.start_fork

    def fail(self: Starter, launch: object, *rest: object) -> None:
        if launch.record.name == "b":  # type: ignore[attr-defined]
            raise MachineError("the second does not start")
        begin(self, launch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Starter, "start_fork", fail)
    with pytest.raises(MachineError, match="the second does not start"):
        family.fork(family.parent, "a", "b", "c")

    assert [one.id for one in forks.items(family.parent.home)] == [one.id for one in before[1]]
    assert records.names(family.parent.home) == before[0]
    assert family.notebook.run("1 + 1") == "2"


def test_the_parent_may_go_first(family: Family, notebooks: list[Notebook]) -> None:
    family.provider.destroy(family.parent, observer=SILENT)

    assert [notebook.run("x") for notebook in notebooks[1:]] == ["42", "43"]


def test_a_child_is_suspended_and_goes_on(family: Family, notebooks: list[Notebook]) -> None:
    first = family.children[0]
    family.provider.suspend(first, observer=SILENT)
    assert family.provider.state(first).state is State.SUSPENDED
    family.provider.start(first, family.image, observer=SILENT)

    assert notebooks[1].run("x") == "42"


def test_a_child_boots_cold_from_its_own_disk(family: Family) -> None:
    second = family.children[1]
    family.provider.stop(second, observer=SILENT)
    tape = Tape()

    guest = family.provider.start(second, family.image, observer=tape)

    assert "init" in tape.stages
    assert guest.get("/home/mlvm/file") == b"second"
    assert guest.run(["hostname"]).stdout == b"second\n"


def test_what_is_shared_goes_with_the_last_that_uses_it(
    family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, grandchild = family.children[:3]
    home = first.home
    shared = home.forks / first.forks[0]
    nobody_maps = not (shared / forks.RAM).exists()
    family.provider.destroy(first, observer=SILENT)
    family.provider.destroy(second, observer=SILENT)
    kept = (shared / "disk.img").exists()
    family.provider.destroy(grandchild, observer=SILENT)

    assert nobody_maps  # one was suspended and one stopped since
    assert kept  # the grandchild's disk builds on it
    assert forks.items(home) == []
    assert [path for path in home.forks.iterdir() if path.name != ".holds"] == []


def _private(record: Record, mapped: Path) -> int:
    """Return how many bytes of a file that its QEMU maps are a machine's own by now."""
    pid = json.loads((record.folder / "run.json").read_text())["pid"]
    _, _, rest = Path(f"/proc/{pid}/smaps").read_text().partition(str(mapped))
    return int(re.search(r"\nAnonymous: +(\d+) kB", rest)[1]) * 1024  # type: ignore[index]
