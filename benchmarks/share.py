"""A folder of the host in the guest, four ways in turn in one machine, beside the guest's own disk.

- *nfs*: ours; the guest kernel's client, a server in Python
- *sshfs*: FUSE in the guest, OpenSSH's sftp-server on the host, over the very same device
- *virtiofs*: QEMU's own daemon. It is here for its numbers: it needs RAM that is shared with the daemon, which no warm
  state's private map is, runs as root only, and its machines cannot be saved
- *own disk*: no folder of the host at all

9p cannot take part: the guest kernel of the boxes has none of it. What the files are is made on the host beforehand;
the guest's caches are dropped before everything but the last question of all. Sizes come from the environment where a
host has no time for the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.bench import Bench
from benchmarks.measures import Measure, Series
from mlvm import process
from mlvm.agent.sharing import OPTIONS
from mlvm.events import SILENT
from mlvm.image.store import Store
from mlvm.machine import create
from mlvm.machine.channel import AgentGuest
from mlvm.machine.qemu import accelerator, argv, host, launching, ready, run_record
from mlvm.machine.record import Record
from mlvm.machine.share import listed
from mlvm.paths import Home, shipped
from mlvm.project import Project

FILES = int(os.environ.get("MLVM_BENCH_SHARE_FILES", "10000"))
MEGABYTES = int(os.environ.get("MLVM_BENCH_SHARE_MB", "1024"))
BOX = "python-3.11"
TAG = "bench"
VIRTIOFSD = Path("/usr/lib/qemu/virtiofsd")
SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
#: Programs of the host that the guest gets for the measurement; the host's release is the guest's.
BORROWED = ("git", "sshfs")
AT = "/mnt/bench"

#: What the guest does, in one process; the answer is seconds by question.
WORK = """
import json, os, subprocess, sys, time
root, files, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
found = {}
def ask(what, work, cold=True):
    if cold:
        os.sync()
        open("/proc/sys/vm/drop_caches", "w").write("3")
    began = time.monotonic()
    work()
    found[what] = time.monotonic() - began
paths = [f"{root}/repo/{n // 100}/{n}.txt" for n in range(files)]
def read():
    for path in paths:
        with open(path, "rb") as stream:
            stream.read()
def make():
    for number in range(files):
        folder = f"{root}/new/{number // 100}"
        if number % 100 == 0:
            os.makedirs(folder)
        with open(f"{folder}/{number}.txt", "w") as stream:
            stream.write("x" * 200)
def quiet(*command):
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env={**os.environ, "HOME": "/root"})
def write_big():
    block = os.urandom(1 << 20)
    with open(f"{root}/big", "wb") as stream:
        for _ in range(megabytes):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
def read_big():
    with open(f"{root}/big", "rb") as stream:
        while stream.read(1 << 20):
            pass
status = ("git", "-c", "safe.directory=*", "-C", f"{root}/repo", "status", "--short")
ask("create", make)
ask("read", read)
ask("lstat", lambda: [os.lstat(path) for path in paths])
ask("ls -lR", lambda: quiet("ls", "-lR", f"{root}/repo"))
ask("first git status", lambda: quiet(*status))
ask("git status", lambda: quiet(*status))
ask("git status again", lambda: quiet(*status), cold=False)
ask("write big", write_big)
ask("read big", read_big)
print(json.dumps(found))
"""
QUESTIONS = {
    "create": f"{FILES} small files made, s",
    "read": f"{FILES} small files read, s",
    "lstat": f"{FILES} files asked for their attributes, s",
    "ls -lR": f"ls -lR of {FILES} files, s",
    "first git status": f"first git status of {FILES} files, s",
    "git status": f"git status of {FILES} files, s",
    "git status again": f"git status of {FILES} files again at once, s",
    "write big": f"{MEGABYTES} MiB written, s",
    "read big": f"{MEGABYTES} MiB read, s",
}


def measure(bench: Bench) -> Sequence[Measure]:
    """Boot one machine; in it each way has its turn with a folder of its own."""
    with ExitStack() as stack:
        base = bench.folder / "prepared"
        prepare(base)
        room = bench.folder / "room"
        room.mkdir()
        guest, record = stack.enter_context(machine(bench, room))
        bench.notes.append(
            f"{FILES} files of 200 bytes in folders of 100; {MEGABYTES} MiB in pieces of 1 MiB"
        )
        return compare(bench, guest, record, base=base, room=room)


def compare(bench: Bench, guest: AgentGuest, record: Record, *, base: Path, room: Path) -> list[Measure]:
    """Let all ways that this host has take turns in a machine."""
    lend(record, guest, room)
    ways: dict[str, Callable[[], Any]] = {
        "own disk": lambda: own_disk(record, guest, room),
        "nfs": lambda: nfs(record, guest, room),
        "sshfs": lambda: sshfs(record, guest, room),
    }
    # A machine without the device has no virtio device of this number.
    if must(guest, "sh", "-c", "grep -lx 0x001a /sys/bus/virtio/devices/*/device || true"):
        ways["virtiofs"] = lambda: virtiofs(guest)
    contestants = {name: lambda way=way: turn(guest, base, room, way) for name, way in ways.items()}
    samples = bench.rounds(contestants)
    baselines = [name for name in ways if name != "nfs"]
    return [
        Measure(
            name=words.partition(", s")[0],
            unit="s",
            ours=_series("nfs", key, samples),
            baseline=_series(baseline, key, samples),
        )
        for key, words in QUESTIONS.items()
        for baseline in baselines
    ]


def _series(name: str, key: str, samples: dict[str, list[dict[str, float]]]) -> Series:
    return Series(name=name, samples=tuple(one[key] for one in samples[name]))


def prepare(base: Path) -> None:
    """Make the files and their repository."""
    for number in range(FILES):
        folder = base / "repo" / str(number // 100)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(f"{number}\n" * 40)
    git = ["git", "-C", base / "repo", "-c", "user.name=b", "-c", "user.email=b@example.org"]
    process.run([*git, "init", "--quiet"])
    process.run([*git, "add", "."], timeout=1800)
    process.run([*git, "commit", "--quiet", "-m", "all"], timeout=1800)


def turn(guest: AgentGuest, base: Path, room: Path, way: Callable[[], Any]) -> dict[str, float]:
    """Give one way a fresh copy of the files, and ask all questions."""
    shutil.copytree(base, room / "one", dirs_exist_ok=True)
    try:
        with way() as root:
            command = ["python3", "-c", WORK, root, str(FILES), str(MEGABYTES)]
            done = guest.run(command, user="root", timeout=3600)
            if done.code != 0:
                raise RuntimeError(done.stderr.decode())
            seconds: dict[str, float] = json.loads(done.stdout)
    finally:
        shutil.rmtree(room / "one")
    return seconds


def must(guest: AgentGuest, *command: str) -> str:
    """Run a program as the guest's root."""
    done = guest.run(command, user="root", timeout=600)
    if done.code != 0:
        raise RuntimeError(f"{command}: {done.stderr.decode()}{done.stdout.decode()}")
    return done.stdout.decode()


@contextmanager
def own_disk(record: Record, guest: AgentGuest, room: Path) -> Iterator[str]:
    """Copy everything to the guest's own disk first, and leave the host out of it."""
    with nfs(record, guest, room):
        must(guest, "cp", "-a", "--no-preserve=ownership", f"{AT}/one", "/var/tmp/bench")
    yield "/var/tmp/bench"
    must(guest, "rm", "-rf", "/var/tmp/bench")


@contextmanager
def nfs(record: Record, guest: AgentGuest, room: Path) -> Iterator[str]:
    """Serve and mount as a machine does."""
    path = room.parent / "shares.json"
    listed.save(path, [listed.Shared(number=0, folder=str(room), at=AT, write=True)])
    sockets = record.home.sockets(record.name)
    command = [sys.executable, "-m", "mlvm.machine.share.server", path,
               sockets / f"{argv.SHARE}.sock", sockets / f"{argv.MOUNT}.sock"]  # fmt: skip
    with process.spawn(command):
        must(guest, "sh", "-c", f"mkdir -p {AT}; modprobe nfs; sleep 2")
        must(guest, "mount", "-i", "-t", "nfs", "-o", OPTIONS, "10.0.2.4:/0", AT)
        try:
            yield f"{AT}/one"
        finally:
            must(guest, "umount", "-l", AT)


@contextmanager
def sshfs(record: Record, guest: AgentGuest, room: Path) -> Iterator[str]:
    """Let sshfs speak to an sftp-server by the same device; all of its caches as they are by default."""
    bridge = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "[os.dup2(s.fileno(), n) for n in (0, 1)]; os.execv(sys.argv[2], sys.argv[2:])"
    )
    door = record.home.sockets(record.name) / f"{argv.SHARE}.sock"
    with process.spawn([sys.executable, "-c", bridge, door, SFTP_SERVER]):
        must(guest, "sh", "-c", f"mkdir -p {AT}; modprobe fuse; sleep 1")
        must(guest, "sshfs", "-o", "directport=2049", f"10.0.2.4:{room}", AT)
        try:
            yield f"{AT}/one"
        finally:
            must(guest, "umount", "-l", AT)


@contextmanager
def virtiofs(guest: AgentGuest) -> Iterator[str]:
    """Mount what the daemon serves."""
    must(guest, "sh", "-c", f"mkdir -p {AT}; mount -t virtiofs {TAG} {AT}")
    try:
        yield f"{AT}/one"
    finally:
        must(guest, "umount", "-l", AT)


@contextmanager
def machine(bench: Bench, room: Path) -> Iterator[tuple[AgentGuest, Record]]:
    """Yield a machine that has the borrowed programs and, beside its usual devices, virtiofs."""
    root = bench.folder / "home"
    home = Home(
        data=root / "data", cache=root / "cache", runtime=Path(tempfile.mkdtemp(prefix="mlvm-share-"))
    )
    (home.store).mkdir(parents=True)
    (home.store / "blobs").symlink_to(Store(bench.home).blobs.folder.resolve())
    project = Project(folder=shipped("boxes") / BOX, home=home)
    image, spec = project.build(frozen=True), project.spec()
    record = create.ensure(home, "bench", image=image, spec=spec, project=project.folder)
    probe = host.probe_host()
    chosen = accelerator.choose(home, probe, image.vmlinuz, observer=SILENT).accelerator
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix="mlvm-bench-") as ram, ExitStack() as stack:
        ram.truncate(record.shape.memory)
        shared = argv.RamFile(path=Path(ram.name), shared=True)
        launch = argv.Launch(record=record, image=image, host=probe, accelerator=chosen, ram=shared)
        door = home.runtime / "virtiofs.sock"
        daemon = [VIRTIOFSD, f"--socket-path={door}", "-o", f"source={room}", "-o", "sandbox=chroot"]
        more: list[str] = []
        if VIRTIOFSD.exists():
            stack.enter_context(process.spawn(daemon))
            more = [
                "-chardev",
                f"socket,id=virtiofs,path={door}",
                "-device",
                f"vhost-user-fs-pci,chardev=virtiofs,tag={TAG}",
            ]
        stack.callback(shutil.rmtree, home.runtime, ignore_errors=True)
        usual = argv.command_line
        # No machine of ours has this device, and only here is one wanted.
        with mock.patch.object(argv, "command_line", lambda one: [*usual(one), *more]):
            run = launching.spawn(launch)
        stack.callback(run_record.kill, run, run.boot_id, number=9, seconds=10)
        launching.wait_ready(record, run, SILENT, limits=ready.LIMITS[chosen], first="firmware")
        run_record.save(record, replace(run, ready=True))
        bench.notes.append(
            f"accelerator {run.accelerator}, {record.shape.cpus} CPUs, QEMU {run.qemu_version}"
        )
        guest = launching.guest_of(record)
        yield guest, record


def lend(record: Record, guest: AgentGuest, room: Path) -> None:
    """Copy programs of the host into the guest, with the libraries that it lacks."""
    wanted: list[str] = []
    for name in BORROWED:
        program = shutil.which(name)
        if program is None:
            raise RuntimeError(f"`{name}` is missing on the host: tools/host-setup bench")
        said = process.run(["ldd", program]).stdout.decode()
        wanted += [program, *(line.split()[2] for line in said.splitlines() if " => /" in line)]
    has = must(guest, "sh", "-c", 'for f in "$@"; do [ -e "$f" ] && echo "$f"; done; true', "sh", *wanted)
    for path in sorted(set(wanted) - set(has.splitlines())):
        place = room / "lent" / f"usr{path}".replace("usr/usr", "usr")  # /lib is a link there
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(path).resolve(), place)
    with nfs(record, guest, room):
        must(guest, "cp", "-a", "--no-preserve=ownership", f"{AT}/lent/.", "/")
    shutil.rmtree(room / "lent")
