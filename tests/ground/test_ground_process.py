"""Programs: found, run to their end, ended with their block; every failure says what and why."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlvm import process
from mlvm.errors import ProgramError


def program(folder: Path, name: str, script: str) -> Path:
    """Put a shell script called `name` into a folder."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def gone(pid: int) -> bool:
    """Tell whether a process has ended, waiting two seconds for it."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_find_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "some-program", "")
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")

    assert process.find_program("some-program") == str(tmp_path / "some-program")
    assert process.find_program("no-such-program") is None


def test_programs_for_administrators_are_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    found = process.find_program("ldconfig")

    assert found in {"/usr/sbin/ldconfig", "/sbin/ldconfig"}


@pytest.mark.parametrize("path", ["", ":", "/usr/bin:", ".", "bin:/usr/bin"])
def test_the_current_folder_is_never_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path, "some-program", "")
    program(tmp_path / "bin", "some-program", "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path)

    assert process.find_program("some-program") is None


@pytest.mark.parametrize(
    ("name", "package"), [("qemu-img", "qemu-utils"), ("ssh-keygen", "openssh-client"), ("jq", "jq")]
)
def test_a_missing_program(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    monkeypatch.setattr(process, "find_program", lambda name: None)

    with pytest.raises(ProgramError) as raised:
        process.run([name])

    assert raised.value.message == f"`{name}` is not installed"
    assert raised.value.hint == f"sudo apt-get install {package}"


def test_run() -> None:
    done = process.run(["cat"], stdin=b"\x00\xff")

    assert (done.returncode, done.stdout, done.stderr) == (0, b"\x00\xff", b"")


def test_run_gives_no_standard_input_unless_told() -> None:
    assert process.run(["cat"]).stdout == b""


def test_run_with_another_environment_and_folder(tmp_path: Path) -> None:
    done = process.run(["sh", "-c", 'echo "$A $HOME"; pwd'], env={"A": "b"}, cwd=tmp_path)

    assert done.stdout.decode().splitlines() == ["b ", str(tmp_path)]


def test_run_of_what_fails(tmp_path: Path) -> None:
    failing = program(tmp_path, "failing", "echo out; echo 'why not' >&2; exit 3")

    with pytest.raises(ProgramError) as raised:
        process.run([failing, "a b"])

    assert raised.value.message == "`failing` ended with code 3"
    assert raised.value.details == f"$ {failing} 'a b'\nwhy not"


def test_what_was_said_on_standard_output_counts_when_nothing_else_was(tmp_path: Path) -> None:
    failing = program(tmp_path, "failing", "echo out; exit 3")

    with pytest.raises(ProgramError) as raised:
        process.run([failing])

    assert raised.value.details == f"$ {failing}\nout"


def test_only_the_last_words_are_kept(tmp_path: Path) -> None:
    failing = program(tmp_path, "failing", "seq 100 >&2; head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1")

    with pytest.raises(ProgramError) as raised:
        process.run([failing])

    assert len(raised.value.details) < 9000


def test_a_code_may_be_looked_at() -> None:
    assert process.run(["sh", "-c", "exit 3"], check=False).returncode == 3


def test_run_of_what_is_killed(tmp_path: Path) -> None:
    dying = program(tmp_path, "dying", "kill -9 $$")

    with pytest.raises(ProgramError) as raised:
        process.run([dying])

    assert raised.value.message == "`dying` was killed by signal 9"


def test_run_that_takes_too_long(tmp_path: Path) -> None:
    slow = program(tmp_path, "slow", "echo begun >&2; exec sleep 30")
    began = time.monotonic()

    with pytest.raises(ProgramError) as raised:
        process.run([slow], timeout=0.5)

    assert raised.value.message == "`slow` did not finish in 0.5 s"
    assert raised.value.details == f"$ {slow}\nbegun"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("mode", "why"),
    [(None, "no such file or directory"), (0o644, "permission denied"), (0o755, "exec format error")],
)
def test_what_cannot_be_started(tmp_path: Path, mode: int | None, why: str) -> None:
    path = tmp_path / "thing"
    if mode is not None:
        path.write_bytes(b"\x7fnot a program")
        path.chmod(mode)
    message = f"`{path}` cannot be started: {why}"

    with pytest.raises(ProgramError) as ran:
        process.run([path])
    with pytest.raises(ProgramError) as spawned, process.spawn([path]):
        pass
    with pytest.raises(ProgramError) as detached:
        process.start_detached([path], log_file=tmp_path / "log")
    with pytest.raises(ProgramError) as replaced:
        process.replace_self([path])

    assert [r.value.message for r in (ran, spawned, detached, replaced)] == [message] * 4


def test_feed(tmp_path: Path) -> None:
    with process.feed(["sh", "-c", 'cat > "$1"', "-", tmp_path / "got"]) as stream:
        for _ in range(3):
            stream.write(b"x" * 1_000_000)

    assert (tmp_path / "got").read_bytes() == b"x" * 3_000_000


def test_what_is_fed_may_end_early_when_it_has_what_it_wants() -> None:
    with process.feed(["head", "-c", "1"]) as stream:
        stream.write(b"x" * 5_000_000)


def test_feed_of_what_fails_before_it_has_read_all(tmp_path: Path) -> None:
    path = program(tmp_path, "eater", "echo no more >&2; exit 3")

    with pytest.raises(ProgramError) as caught, process.feed([path]) as stream:
        stream.write(b"x" * 5_000_000)

    assert caught.value.message == "`eater` ended with code 3"
    assert caught.value.details == f"$ {path}\nno more"


def test_an_error_while_feeding_ends_the_program(tmp_path: Path) -> None:
    path = program(tmp_path, "waiter", "cat > /dev/null; sleep 60")
    began = time.monotonic()

    with pytest.raises(ZeroDivisionError), process.feed([path]):
        raise ZeroDivisionError

    assert time.monotonic() - began < 30


def test_spawn_ends_its_program() -> None:
    with process.spawn(["sleep", "60"]) as child:
        assert child.poll() is None

    assert child.returncode == -signal.SIGTERM


def test_spawn_ends_its_program_on_an_error() -> None:
    with pytest.raises(ZeroDivisionError), process.spawn(["sleep", "60"]) as child:
        raise ZeroDivisionError

    assert child.returncode == -signal.SIGTERM


def test_spawn_ends_what_its_program_started(tmp_path: Path) -> None:
    parent = program(tmp_path, "parent", "sleep 60 & echo $!; wait")

    with process.spawn([parent], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        child.stdout.close()

    assert gone(grandchild)


def test_spawn_waits_for_what_has_ended_already() -> None:
    with process.spawn(["sh", "-c", "exit 3"]) as child:
        child.wait()

    assert child.returncode == 3


def test_spawn_kills_what_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = subprocess.Popen.wait
    monkeypatch.setattr(
        subprocess.Popen,
        "wait",
        lambda self, timeout=None: wait(self, None if timeout is None else timeout / 20),
    )
    code = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(flush=True)\ntime.sleep(60)"

    with process.spawn([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()

    assert child.returncode == -signal.SIGKILL


def test_a_detached_program_has_its_own_session_and_log(tmp_path: Path) -> None:
    child = process.start_detached(
        ["sh", "-c", "echo said; echo complained >&2; pwd"], log_file=tmp_path / "log"
    )
    session = os.getsid(child.pid)

    assert child.wait(10) == 0
    assert session == child.pid
    assert (tmp_path / "log").read_text() == "said\ncomplained\n/\n"


STARTER = """
import sys
from pathlib import Path
from mlvm.process import start_detached
child = start_detached(["sleep", "60"], log_file=Path(sys.argv[1]))
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_a_detached_program_outlives_us(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", STARTER, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(process.__file__).parent.parent)},
        start_new_session=True,
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        os.killpg(starter.pid, signal.SIGHUP)  # the terminal is closed
    try:
        time.sleep(0.1)

        assert Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in {"S", "R", "D"}
    finally:
        os.kill(pid, signal.SIGKILL)


def test_replace_self_loses_no_output() -> None:
    code = "from mlvm.process import replace_self\nprint('before')\nreplace_self(['sh', '-c', 'echo after; exit 7'])"

    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(process.__file__).parent.parent)},
    )

    assert (done.returncode, done.stdout) == (7, b"before\nafter\n")


@pytest.mark.skipif(
    shutil.which("setpriv") is None, reason="needs setpriv, which every Linux with util-linux has"
)
def test_what_is_fed_dies_with_a_killed_feeder(tmp_path: Path) -> None:
    deaf = "import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(60)"
    feeder = (
        "import sys\nfrom mlvm.process import feed\n"
        "with feed([sys.executable, '-c', sys.argv[1], sys.argv[2]]) as stream: sys.stdin.read()"
    )
    told = tmp_path / "pid"
    child = subprocess.Popen([sys.executable, "-c", feeder, deaf, str(told)], stdin=subprocess.PIPE)
    assert child.stdin is not None
    deadline = time.monotonic() + 30
    while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    pid = int(told.read_text())

    child.kill()
    child.wait()
    child.stdin.close()

    assert gone(pid)
