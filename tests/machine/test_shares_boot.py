"""Shares that real machines have of a real host: memory that comes and goes, slowed disks, shared CPUs.

Two machines of one CPU each, with memory in bounds; tests come in the order of their life.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlvm.cli import run
from mlvm.errors import MachineError
from mlvm.events import SILENT
from mlvm.image.document import Image
from mlvm.machine import create
from mlvm.machine.guest import Guest
from mlvm.machine.provider import Limits
from mlvm.machine.qemu import cpu_share, run_record
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.machine.record import Record
from mlvm.machine.usage import Usage, usage
from mlvm.paths import Home, shipped
from mlvm.project import Project
from mlvm.spec.document import GIB, MIB, MachineShape, Spec

pytestmark = [pytest.mark.boot, pytest.mark.network]

SHAPE = MachineShape(cpus=1, memory=GIB, memory_min=256 * MIB, disk=256 * MIB)
#: Runs in a guest: 300 MB, every page touched, until a file says that it is enough.
HOLD = """\
import os, time
b = bytearray(300_000_000)
for at in range(0, len(b), 4096):
    b[at] = 1
print(len(b), flush=True)
while not os.path.exists("/tmp/let-go"):
    time.sleep(0.2)
"""
#: Runs in a guest as root: two busy processes on its one CPU, with weights 400 and 100; prints their CPU times.
TWO_BUSY = """\
import os, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, "/root")
import cpu_share
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
said = [cpu_share.give(p.pid, w, Path(f"/m/{w}")) for p, w in zip(busy, (400, 100))]
def used(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])
time.sleep(3)
before = [used(p.pid) for p in busy]
time.sleep(12)
after = [used(p.pid) for p in busy]
for p in busy:
    p.kill(); p.wait()
for w in (400, 100):
    cpu_share.forget(Path(f"/m/{w}"))
left = [p.name for p in Path("/sys/fs/cgroup/mlvm").iterdir() if p.is_dir()]
print(said, cpu_share.find_group(), left, *(b - a for a, b in zip(before, after)), sep="|")
"""


@pytest.fixture(scope="module")
def image(chain_home: Home) -> Image:
    return Project(folder=shipped("boxes") / "python-3.11", home=chain_home).build(frozen=True)


@pytest.fixture(scope="module")
def provider() -> QemuProvider:
    return QemuProvider()


def made(home: Home, image: Image, provider: QemuProvider, name: str, shape: MachineShape) -> Record:
    spec = Spec(name=name, machine=shape)
    record = create.ensure(home, name, image=image, spec=spec, project=Path("/somewhere"))
    provider.start(record, image, observer=SILENT)
    return record


@pytest.fixture(scope="module")
def machine(chain_home: Home, image: Image, provider: QemuProvider) -> Iterator[Record]:
    record = made(chain_home, image, provider, "elastic", SHAPE)
    yield record
    provider.destroy(record, observer=SILENT)


@pytest.fixture
def guest(machine: Record, provider: QemuProvider) -> Guest:
    return provider.guest(machine)


def test_what_it_uses_is_found_out(machine: Record, provider: QemuProvider) -> None:
    found = usage(machine, provider)

    assert found is not None
    assert None not in [getattr(found, name) for name in found.__slots__]
    assert 0.85 * GIB < (found.guest_memory or 0) < GIB
    assert (found.guest_available or 0) < (found.guest_memory or 0)
    assert (found.memory_private or 0) > 50 * MIB
    assert (found.cpu_seconds or 0) > 1
    assert (found.disk_read or 0) > 10 * MIB


def test_status_shows_it(machine: Record, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--usage"]) == 0
    tables = capsys.readouterr().out.split("\n\n")
    assert run(["status", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)

    assert tables[1].splitlines()[1].startswith("elastic")
    assert "-" not in tables[1].splitlines()[1].split()
    assert said[0]["usage"]["memory_private"] > 50 * MIB
    assert said[0]["usage"]["guest_memory"] is None  # nobody was asked


def test_what_a_guest_frees_is_the_hosts_again(machine: Record, provider: QemuProvider, guest: Guest) -> None:
    before = private(machine, provider)
    guest.run(["sh", "-c", f"setsid python3 -c '{HOLD}' > /tmp/held 2>&1 & echo"])
    guest.run(["sh", "-c", "until grep -q 0 /tmp/held; do sleep 1; done"], timeout=300)
    held = private(machine, provider)

    guest.put("/tmp/let-go", b"")
    # Not down to where it was: the emulator keeps what it has translated meanwhile.
    given = eventually(lambda: private(machine, provider) < held - 200 * MIB, seconds=120)

    assert held > before + 250 * MIB
    assert given, f"{before >> 20} MiB, {held >> 20} MiB, {private(machine, provider) >> 20} MiB"


def test_memory_is_taken_and_given(machine: Record, provider: QemuProvider, guest: Guest) -> None:
    provider.limit(machine, Limits(memory=384 * MIB), observer=SILENT)
    shrunk = eventually(lambda: total(guest) < 400 * MIB, seconds=180)
    small = private(machine, provider)

    provider.limit(machine, Limits(memory=GIB), observer=SILENT)
    grown = eventually(lambda: total(guest) > 0.85 * GIB, seconds=180)

    assert (shrunk, grown) == (True, True)
    assert small < 600 * MIB
    with pytest.raises(MachineError, match="can have 256 to 1024 MiB"):
        provider.limit(machine, Limits(memory=128 * MIB), observer=SILENT)


def test_disks_are_slowed_and_let_go(machine: Record, provider: QemuProvider, guest: Guest) -> None:
    free = reads_a_second(guest)
    provider.limit(machine, Limits(disk_iops=40), observer=SILENT)
    slowed = reads_a_second(guest)
    provider.limit(machine, Limits(disk_iops=0), observer=SILENT)
    again = reads_a_second(guest)

    assert slowed <= 40 * 1.2
    assert min(free, again) > 1.5 * slowed


def test_weights_in_cgroups(guest: Guest) -> None:
    """The guest is a host here: its cgroups are of the second version, and ours to change."""
    guest.put("/root/cpu_share.py", Path(cpu_share.__file__).read_bytes())

    done = guest.run(["/opt/mlvm/venv/bin/python", "-c", TWO_BUSY], user="root", timeout=300)

    said, group, left, heavy, light = done.stdout.decode().strip().split("|")
    assert (said, group, left) == ("['', '']", "/sys/fs/cgroup", "[]")
    assert 2.5 < int(heavy) / int(light) < 6


def test_two_busy_machines_share_a_cpu_by_their_weights(
    machine: Record, chain_home: Home, image: Image, provider: QemuProvider, guest: Guest
) -> None:
    """Weights of 100 and 25; what others on the host take of that CPU, they take from both."""
    light = made(chain_home, image, provider, "light", MachineShape(cpus=1, memory=GIB, cpu_weight=25))
    try:
        both = (machine, light)
        for record in both:
            on_one_cpu(record)
            busy = "setsid sh -c 'while :; do :; done' > /dev/null 2>&1 & echo"
            provider.guest(record).run(["sh", "-c", busy])
        time.sleep(3)
        before = [looked(record, provider).cpu_seconds or 0 for record in both]
        time.sleep(20)
        after = [looked(record, provider).cpu_seconds or 0 for record in both]
    finally:
        provider.destroy(light, observer=SILENT)
        guest.run(["pkill", "-f", "while :"])

    heavy, less = (b - a for a, b in zip(before, after, strict=True))
    assert 2 < heavy / less < 8  # 4 by cgroups, 3.8 by niceness


def test_limits_of_the_spec_hold_from_the_start(
    chain_home: Home, image: Image, provider: QemuProvider
) -> None:
    record = made(chain_home, image, provider, "slow", MachineShape(cpus=1, memory=GIB, disk_iops=60))
    try:
        assert reads_a_second(provider.guest(record)) <= 60 * 1.2
        with pytest.raises(MachineError, match="keeps the memory it has"):
            provider.limit(record, Limits(memory=GIB), observer=SILENT)
    finally:
        provider.destroy(record, observer=SILENT)


def on_one_cpu(record: Record) -> None:
    found = run_record.load(record)
    assert found is not None
    for thread in Path(f"/proc/{found.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {min(os.sched_getaffinity(0))})


def reads_a_second(guest: Guest, count: int = 240) -> float:
    """Return how many single reads of its disk the guest does in a second, by its own clock."""
    dd = f"dd if=/dev/disk/by-id/virtio-overlay of=/dev/null bs=4k count={count} iflag=direct"
    clocked = f"udevadm settle; date +%s.%N; {dd} 2>/dev/null; date +%s.%N"
    done = guest.run(["sh", "-c", clocked], user="root", timeout=120)
    began, ended = (float(word) for word in done.stdout.split())
    return count / (ended - began)


def looked(record: Record, provider: QemuProvider) -> Usage:
    found = usage(record, provider, ask=False)
    assert found is not None
    return found


def private(record: Record, provider: QemuProvider) -> int:
    return looked(record, provider).memory_private or 0


def total(guest: Guest) -> int:
    return int(guest.get("/proc/meminfo").split()[1]) * 1024


def eventually(condition: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(1)
    return False
