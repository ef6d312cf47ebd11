"""Folders of the host in real machines: what a notebook's user sees of them, and what a guest cannot do with them."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlvm.events import SILENT, Observer
from mlvm.machine import folders
from mlvm.machine.channel import AgentGuest
from mlvm.machine.guest import Guest
from mlvm.machine.provider import State
from mlvm.machine.qemu import launching, sharing
from mlvm.machine.record import Record
from mlvm.machine.table import provider_for
from mlvm.paths import Home, shipped
from mlvm.project import Project

pytestmark = [pytest.mark.boot, pytest.mark.network]

BOX = shipped("boxes") / "python-3.11"
HOSTILE = ["a,b", "a b", "-rf", "ünï", "new\nline", "a'b\"c", "$(x)", "\\040", "#x"]
#: The bar, and what a busy host under emulation takes for two round trips more.
SOON, LOADED = 1.0, 10.0


class Tape(Observer):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        self.stages.append(stage)


def project_in(folder: Path, home: Home, more: str = "") -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlvm.yaml").write_text((BOX / "mlvm.yaml").read_text() + more)
    shutil.copy(BOX / "mlvm.lock", folder)
    return Project(folder=folder, home=home)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose folder has a name that nobody should have to think of."""
    made = tmp_path_factory.mktemp("share") / "-my, pröject\n#1"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "helpers.py").write_text("ANSWER = 42\n")
    (made / "sub" / "data.csv").write_text("a,b\n1,2\n")
    (made / "out").symlink_to("/etc/hostname")
    (made / "inside").symlink_to("sub/data.csv")
    (made / "read-only").mkdir()
    return made


MORE = """
share:
  - {folder: ., at: "/work/my, project", write: true}
  - "read-only:/work/ro"
"""


@pytest.fixture(scope="module")
def machine(chain_home: Home, folder: Path) -> Iterator[Record]:
    record = project_in(folder, chain_home, MORE).up("shares", frozen=True)
    yield record
    provider_for(record).destroy(record, observer=SILENT)


@pytest.fixture
def guest(machine: Record) -> Guest:
    return provider_for(machine).guest(machine)


PLACE = "/work/my, project"


def sh(guest: Guest, script: str, *words: str, user: str | None = None) -> str:
    done = guest.run(["sh", "-c", script, "sh", *words], cwd=PLACE, user=user, timeout=120)
    assert done.code == 0, done.stderr.decode()
    return done.stdout.decode()


def until(true: Callable[[], bool], seconds: float = LOADED) -> float:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def test_a_program_begins_in_the_same_folder(machine: Record, guest: Guest, folder: Path) -> None:
    place = folders.place_of(machine, folder / "sub")

    assert place == f"{PLACE}/sub"
    assert guest.run(["pwd"], cwd=place).stdout.decode() == f"{place}\n"


def test_local_imports_and_data_files_work(guest: Guest) -> None:
    code = "import helpers; print(helpers.ANSWER, open('data.csv').read())"
    done = guest.run(["python3", "-c", code], cwd=f"{PLACE}/sub")

    assert done.stdout.decode() == "42 a,b\n1,2\n\n", done.stderr


def test_what_the_guest_writes_is_on_the_host(guest: Guest, folder: Path) -> None:
    sh(guest, "echo guest > from-guest")

    assert (folder / "from-guest").read_text() == "guest\n"


TICK = """
import time
with open("log", "w") as log:
    for _ in range(10):
        log.write(f"{time.time()}\\n")
        log.flush()
        time.sleep(0.5)
"""


def test_what_a_running_program_writes_is_there_within_a_second(guest: AgentGuest, folder: Path) -> None:
    """Not only when it closes the file: people watch logs. The median, since a busy host stops for seconds."""
    before = time.time()
    told = float(str(guest.ping()["time"]))
    wrong = told - (before + time.time()) / 2
    thread = threading.Thread(target=guest.run, args=(["python3", "-c", TICK],), kwargs={"cwd": PLACE})
    thread.start()
    delays: list[float] = []
    while thread.is_alive():
        lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
        delays += [time.time() + wrong - float(line) for line in lines[len(delays) :]]
        time.sleep(0.02)
    thread.join()

    assert len(delays) >= 9
    assert statistics.median(delays) < SOON


WATCH = """
import os, sys, time
print("ready", flush=True)
path, old = sys.argv[1], sys.argv[2]
def now():
    try:
        with open(path) as stream:
            return stream.read()
    except OSError:
        return "gone"
while now() == old:
    time.sleep(0.02)
print(time.time(), flush=True)
"""


@pytest.mark.parametrize(
    ("old", "change"),
    [
        ("gone", lambda path: path.write_text("new")),
        ("new", lambda path: path.write_text("changed")),
        ("changed", lambda path: path.unlink()),
    ],
)
def test_what_the_host_changes_is_in_the_guest_within_a_second(
    machine: Record, folder: Path, old: str, change: Callable[[Path], object]
) -> None:
    """The guest's clock says when it saw it; both clocks are compared in the same test."""
    guest = launching.guest_of(machine)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as sink:
        assert sink.stdin is not None
        assert sink.stdout is not None
        thread = threading.Thread(
            target=guest.stream,
            args=(["python3", "-c", WATCH, f"{PLACE}/watched", old],),
            kwargs={"stdin": None, "stdout": sink.stdin, "stderr": sink.stdin},
        )
        thread.start()
        assert sink.stdout.readline() == b"ready\n"
        time.sleep(2)
        before = time.time()
        clock = float(guest.ping()["time"]) - time.time()  # type: ignore[arg-type]
        change(folder / "watched")
        changed = time.time()
        seen = float(sink.stdout.readline()) - clock
        thread.join()
        sink.stdin.close()
    assert seen - changed < SOON + (changed - before)


def test_links_are_links(guest: Guest) -> None:
    assert sh(guest, "readlink out; cat inside; cat out") == "/etc/hostname\na,b\n1,2\nshares\n"


def test_links_that_the_guest_makes_lead_nowhere_on_the_host(
    guest: Guest, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    done = guest.run(["sh", "-c", 'ln -s "$1" way; cat way/secret', "sh", str(tmp_path)], cwd=PLACE)

    assert done.code != 0
    assert (folder / "way").is_symlink()


def test_owner_and_mode_are_sane(guest: Guest, folder: Path) -> None:
    said = sh(
        guest,
        "umask 022; echo x > mine; cp /bin/true tool; chmod 750 tool; stat -c '%U %a' mine tool; ./tool",
    )
    status = (folder / "mine").stat()

    assert said == "mlvm 644\nmlvm 750\n"
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.getuid(), 0o644)
    assert stat.S_IMODE((folder / "tool").stat().st_mode) == 0o750


def test_the_guests_root_lends_nobody_rights_of_the_host(guest: Guest, folder: Path) -> None:
    sh(guest, "cp /bin/true suid; chmod 6755 suid || true; mknod dev c 1 3 && exit 1; true", user="root")

    assert not (folder / "suid").stat().st_mode & (stat.S_ISUID | stat.S_ISGID)
    assert (folder / "suid").stat().st_uid == os.getuid()
    assert not (folder / "dev").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_every_name_goes_both_ways(guest: Guest, folder: Path, name: str) -> None:
    (folder / name).write_text("host")
    said = sh(guest, 'cat "./$1"; echo guest > "./$1"', name)

    assert said == "host"
    assert (folder / name).read_text() == "guest\n"


def test_read_only_is_read_only(guest: Guest, folder: Path) -> None:
    (folder / "read-only" / "there").write_text("x")
    done = guest.run(["sh", "-c", "cat there; echo y > new; rm there"], cwd="/work/ro", user="root")

    assert done.stdout == b"x"
    assert b"Read-only file system" in done.stderr
    assert [path.name for path in (folder / "read-only").iterdir()] == ["there"]


def test_a_remount_does_not_make_it_writable(guest: Guest, folder: Path) -> None:
    script = "mount -i -o remount,rw /work/ro; echo y > /work/ro/new"
    done = guest.run(["sh", "-c", script], user="root")

    assert done.code != 0
    assert not (folder / "read-only" / "new").exists()


def test_deleting_what_is_open_keeps_it_open(guest: Guest) -> None:
    assert sh(guest, "echo still > open; exec 3< open; rm open; cat <&3") == "still\n"


def test_nothing_listens_on_the_host_because_of_it(machine: Record) -> None:
    pid = sharing._load(machine)["pid"]
    said = subprocess.run(["ss", "-ltnup"], capture_output=True, text=True, check=True).stdout

    assert f"pid={pid}," not in said


OPEN = 'exec 3> held; n=0; while :; do n=$((n+1)); echo "$n" >&3; sleep 0.2; done'


@pytest.fixture(scope="module")
def holder(machine: Record, folder: Path) -> Path:
    """A program that works in the folder, with a file open, for the tests that follow."""
    guest = provider_for(machine).guest(machine)
    guest.run(
        ["sh", "-c", f"setsid sh -c '{OPEN}' > /dev/null 2>&1 < /dev/null &"], cwd=f"{PLACE}/sub", timeout=60
    )
    held = folder / "sub" / "held"
    until(lambda: held.exists() and held.read_text() != "", 60)
    return held


def goes_on(held: Path) -> None:
    """Wait until the program has written more, and check that nothing of it was lost."""
    had = len(held.read_text().splitlines())
    until(lambda: len(held.read_text().splitlines()) > had + 2, 90)
    lines = held.read_text().splitlines()
    assert lines == [str(number + 1) for number in range(len(lines))]


def test_a_killed_server_is_replaced_and_nothing_is_lost(machine: Record, folder: Path, holder: Path) -> None:
    pid = sharing._load(machine)["pid"]
    os.kill(int(str(pid)), signal.SIGKILL)
    project_in(folder, machine.home, MORE).up("shares", frozen=True)

    assert sharing._load(machine)["pid"] != pid
    goes_on(holder)


def test_a_suspended_machine_goes_on_in_its_folder(machine: Record, folder: Path, holder: Path) -> None:
    provider = provider_for(machine)
    provider.suspend(machine, observer=SILENT)
    time.sleep(0.5)
    assert not sharing.lives(machine)
    project_in(folder, machine.home, MORE).up("shares", frozen=True)

    goes_on(holder)


def test_a_snapshot_comes_back_with_its_folder(machine: Record, folder: Path, holder: Path) -> None:
    provider = provider_for(machine)
    image = Project(folder=folder, home=machine.home).build(frozen=True)
    provider.snapshot(machine, "open", observer=SILENT)
    time.sleep(1)
    provider.go_back(machine, image, "open", observer=SILENT)
    had = holder.stat().st_mtime_ns

    until(lambda: holder.stat().st_mtime_ns > had, 90)


def test_a_folder_that_is_gone_is_an_error_in_the_guest_and_said_outside(
    machine: Record, guest: Guest, folder: Path
) -> None:
    away = folder.with_name("away")
    folder.rename(away)
    try:
        done = guest.run(["sh", "-c", 'sleep 2; ls "$1"', "sh", PLACE], timeout=60)
        lines = folders.described(folders.of(machine))
    finally:
        away.rename(folder)

    assert done.code != 0
    assert b"Stale file handle" in done.stderr
    assert "gone" in lines[0]


def test_it_comes_back_when_the_folder_does(guest: Guest) -> None:
    until(lambda: guest.run(["cat", f"{PLACE}/sub/data.csv"]).stdout == b"a,b\n1,2\n", 30)


@pytest.mark.heavy
def test_stopped_and_started_it_is_there_again(machine: Record, folder: Path) -> None:
    provider_for(machine).stop(machine, observer=SILENT)
    assert not sharing.lives(machine)
    project_in(folder, machine.home, MORE).up("shares", frozen=True)

    assert sh(provider_for(machine).guest(machine), "cat sub/data.csv") == "a,b\n1,2\n"


@pytest.mark.heavy
def test_taken_out_of_the_spec_it_is_gone_from_the_guest(machine: Record, folder: Path) -> None:
    project_in(folder, machine.home, "\nshare: []\n").up("shares", frozen=True)
    guest = launching.guest_of(machine)

    assert guest.share_status() == {"mounted": {}, "failed": {}}
    assert guest.run(["ls", "-A", PLACE]).stdout == b""


# ------------------------------------------------------------------------------------------------- unasked, and warm


@pytest.fixture(scope="module")
def warm(
    chain_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, Record, Tape]]:
    """A project that says nothing of sharing, its machine started from a warm state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLVM_WARM", "saved")  # "on" would leave a machine on standby behind
        project = project_in(tmp_path_factory.mktemp("warm") / "plain", chain_home)
        (project.folder / "data.txt").write_text("warm")
        project.make_warm(frozen=True)
        tape = Tape()
        record = project.up("warm-share", frozen=True, observer=tape)
        yield project, record, tape
        provider_for(record).destroy(record, observer=SILENT)


@pytest.mark.heavy
def test_a_warm_machine_has_its_projects_folder(warm: tuple[Project, Record, Tape]) -> None:
    project, record, tape = warm
    guest = provider_for(record).guest(record)

    assert "warm" in tape.stages, tape.notes
    assert provider_for(record).state(record).state is State.RUNNING
    assert guest.run(["cat", "data.txt"], cwd="/work/plain").stdout == b"warm"
    assert folders.place_of(record, project.folder) == "/work/plain"


@pytest.mark.heavy
def test_a_second_folder_comes_while_it_runs(warm: tuple[Project, Record, Tape], tmp_path: Path) -> None:
    """As for a notebook that lies elsewhere."""
    project, record, _ = warm
    elsewhere = tmp_path / "plain"
    elsewhere.mkdir()
    (elsewhere / "nb.txt").write_text("second")
    folders.want(record, project.spec().share, elsewhere, working=True, kernel=True, observer=SILENT)
    guest = provider_for(record).start(record, project.build(frozen=True), observer=SILENT)

    assert guest.run(["cat", "nb.txt"], cwd="/work/plain-2").stdout == b"second"
    assert guest.run(["cat", "data.txt"], cwd="/work/plain").stdout == b"warm"
