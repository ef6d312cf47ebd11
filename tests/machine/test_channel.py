"""The agent and the host's end of its channel, for real, without a machine.

The agent runs as a process of the host, unix sockets standing in for its ports; everything else is as in a
guest.
"""

from __future__ import annotations

import getpass
import io
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import hearing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jupyter_client import BlockingKernelClient

from mlvm.errors import GuestError
from mlvm.machine.channel import AgentGuest, Channel
from mlvm.machine.session import Session

pytestmark = pytest.mark.jupyter

AGENT = Path(__file__).parents[2] / "mlvm" / "agent" / "main.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sockets of a running agent."""
    folder = tmp_path_factory.mktemp("agent")
    world = {
        "sockets": folder,
        "user": getpass.getuser(),
        "python": sys.executable,
        "kernel-ip": "127.0.0.1",
        "kernels": folder / "kernels",
        "logs": folder / "logs",
    }
    options = [word for name, value in world.items() for word in (f"--{name}", str(value))]
    with (folder / "stderr").open("wb") as log:
        agent = subprocess.Popen([sys.executable, "-I", str(AGENT), *options], stderr=log)
    try:
        deadline = time.monotonic() + 10
        while not (folder / "agent-7.sock").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield folder
        assert agent.poll() is None, (folder / "stderr").read_text()
    finally:
        agent.terminate()
        agent.wait()
    assert (folder / "stderr").read_text() == ""


@pytest.fixture
def guest(folder: Path) -> AgentGuest:
    return AgentGuest(folder, env={"FROM_RECORD": "yes"})


def wait_until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


# --- greeting
# ----------------------------------------------------------------------------------------------------


def pinged(session: Session) -> dict[str, object]:
    session.send({"op": "ping"})
    return dict(session.answer())


def test_ping_says_who_is_there(guest: AgentGuest) -> None:
    greeting = guest.ping()

    assert greeting["hostname"] == socket.gethostname()
    assert greeting["kernel"] == os.uname().release


def test_a_machine_that_is_not_running(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="the machine is not running"):
        AgentGuest(tmp_path).ping()


def test_an_agent_that_never_answers(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent-0.sock"))
        listener.listen()

        with pytest.raises(GuestError, match="the guest does not answer"):
            AgentGuest(tmp_path).ping(timeout=0.1)


def test_all_ports_in_use(folder: Path) -> None:
    channel = Channel(folder)
    with channel.connect(), channel.connect(), channel.connect(), channel.connect():
        with channel.connect(), channel.connect(), channel.connect(), channel.connect():
            with pytest.raises(GuestError, match="all 8 channels to the guest are in use"):
                with channel.connect(seconds=0.1):
                    pass


# --- run
# ---------------------------------------------------------------------------------------------------------


def test_a_greeting_does_not_wait_for_what_is_asked_behind_it(folder: Path) -> None:
    with Channel(folder).connect() as session:
        nonce = session.hello()
        session.send({"op": "kernel_prepare", "modules": [], "env": {}})
        session.greeted(nonce, 30)
        greeted = time.monotonic()

        assert session.answer(60)["pid"] > 0

    assert time.monotonic() - greeted > 0.2  # a new process with ipykernel in it


def test_run_collects_output_error_and_code(guest: AgentGuest) -> None:
    done = guest.run(["sh", "-c", "cat; echo complaint >&2; exit 3"], stdin=b"input")

    assert (done.code, done.stdout, done.stderr) == (3, b"input", b"complaint\n")


def test_run_reports_a_signal_as_a_negative_code(guest: AgentGuest) -> None:
    assert guest.run(["sh", "-c", "kill -9 $$"]).code == -signal.SIGKILL


def test_run_in_a_folder_with_environment(guest: AgentGuest, tmp_path: Path) -> None:
    done = guest.run(["sh", "-c", "pwd; echo $A $FROM_RECORD"], env={"A": "1 2"}, cwd=str(tmp_path))

    assert done.stdout.decode().splitlines() == [str(tmp_path), "1 2 yes"]


def test_run_has_a_login_environment_and_nothing_of_the_agents(guest: AgentGuest) -> None:
    names = guest.run(["env"]).stdout.decode().splitlines()

    assert {name.split("=")[0] for name in names} == {
        *("FROM_RECORD", "HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER")
    }


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_run_as_another_user(guest: AgentGuest) -> None:
    done = guest.run(["sh", "-c", "id -un; id -Gn; echo $HOME"], user="nobody", cwd="/")

    assert done.stdout.decode().splitlines() == ["nobody", "nogroup", "/nonexistent"]


def test_run_what_is_not_there(guest: AgentGuest) -> None:
    with pytest.raises(GuestError) as caught:
        guest.run(["/no/such/program"])

    assert str(caught.value) == (
        "cannot run `/no/such/program` in the guest: No such file or directory (`/no/such/program`)"
    )


def test_run_as_nobody_known(guest: AgentGuest) -> None:
    with pytest.raises(GuestError, match="there is no user `mallory` in the guest"):
        guest.run(["true"], user="mallory")


def test_run_out_of_time_is_killed(guest: AgentGuest, tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    with pytest.raises(GuestError, match=r"did not finish in 0\.2 s, and was killed"):
        guest.run(["sh", "-c", f"echo $$ > {pid}; sleep 60"], timeout=0.2)

    assert wait_until(lambda: not alive(int(pid.read_text())))


def test_run_does_not_wait_for_what_is_left_in_the_background(guest: AgentGuest) -> None:
    began = time.monotonic()

    done = guest.run(["sh", "-c", "sleep 5 & echo done"])

    assert done.stdout == b"done\n"
    assert time.monotonic() - began < 4


def test_a_program_that_reads_nothing_ends_all_the_same(guest: AgentGuest) -> None:
    assert guest.run(["true"], stdin=bytes(1_000_000)).code == 0


def test_twenty_megabytes_in_and_out(guest: AgentGuest) -> None:
    content = os.urandom(1024) * 20_000

    assert guest.run(["cat"], stdin=content).stdout == content


def test_two_clients_at_once(guest: AgentGuest) -> None:
    results: dict[int, bytes] = {}

    def work(number: int) -> None:
        results[number] = guest.run(["sh", "-c", f"sleep 0.3; echo {number}"]).stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {number: f"{number}\n".encode() for number in range(8)}
    assert time.monotonic() - began < 2.0


# --- stream
# ------------------------------------------------------------------------------------------------------


def test_stream_joins_files(guest: AgentGuest, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_bytes(b"abc" * 100_000)
    out, err = io.BytesIO(), io.BytesIO()

    with source.open("rb") as stdin:
        code = guest.stream(["sh", "-c", "cat; echo e >&2"], stdin=stdin, stdout=out, stderr=err)

    assert (code, out.getvalue(), err.getvalue()) == (0, b"abc" * 100_000, b"e\n")


def test_stream_delivers_while_the_program_runs(guest: AgentGuest) -> None:
    """`cat` answers a line before it gets the next one: both directions flow at once."""
    ours, theirs = os.pipe()
    back, forth = os.pipe()
    with os.fdopen(ours, "rb") as stdin, os.fdopen(forth, "wb") as stdout, os.fdopen(back, "rb") as replies:
        arguments = {"stdin": stdin, "stdout": stdout, "stderr": io.BytesIO()}
        worker = threading.Thread(target=guest.stream, args=(["cat"],), kwargs=arguments)
        worker.start()
        for number in range(5):
            os.write(theirs, f"{number}\n".encode())
            assert replies.readline() == f"{number}\n".encode()
        os.close(theirs)
        worker.join(5)
        assert not worker.is_alive()


def test_stream_on_a_terminal(guest: AgentGuest) -> None:
    out = io.BytesIO()

    code = guest.stream(
        ["sh", "-c", "test -t 0 -a -t 1 && stty size && tty"],
        stdin=None, stdout=out, stderr=io.BytesIO(), tty=True,
    )  # fmt: skip

    size, name = out.getvalue().decode().split("\r\n")[:2]
    assert (code, size) == (0, "24 80")
    assert name.startswith("/dev/pts/")


def test_our_terminal_is_raw_meanwhile_and_restored(guest: AgentGuest) -> None:
    ours, theirs = pty.openpty()
    before = subprocess.run(["stty", "-a"], stdin=theirs, capture_output=True, check=True).stdout
    out = io.BytesIO()
    with os.fdopen(theirs, "rb", buffering=0) as stdin:
        # A raw terminal passes Ctrl-C on as a byte, and the guest's terminal makes a signal of it.
        timer = threading.Timer(0.5, os.write, (ours, b"\x03"))
        timer.start()
        code = guest.stream(["sleep", "20"], stdin=stdin, stdout=out, stderr=out, tty=True)
        timer.join()
        after = subprocess.run(["stty", "-a"], stdin=stdin, capture_output=True, check=True).stdout
    os.close(ours)

    assert code == -signal.SIGINT
    assert after == before


def test_the_program_hears_that_its_client_vanished(folder: Path, tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    script = f"trap 'echo hup > {heard}; exit' HUP; echo ready; while :; do sleep 0.05; done"
    with Channel(folder).session() as session:
        session.send({"op": "exec", "argv": ["sh", "-c", script]})
        while "out" not in session.receive(5):
            pass

    assert wait_until(lambda: heard.exists() and heard.read_text() == "hup\n")


def test_another_client_taking_over_ends_the_program_of_the_first(folder: Path) -> None:
    """On a virtio port the next client's bytes may follow the last one's without a gap."""
    with Channel(folder).session() as session:
        session.send({"op": "exec", "argv": ["sleep", "60"]})
        pid = session.receive(5)["started"]
        session.connection.sendall(b'{"op":"exec","arg')  # killed in the middle of a line
        session.greet(5)

        assert pinged(session)["agent"] >= 1
    assert wait_until(lambda: not alive(pid))


# --- files
# -------------------------------------------------------------------------------------------------------


def test_put_and_get_twenty_megabytes(guest: AgentGuest, tmp_path: Path) -> None:
    content = os.urandom(1024) * 20_000
    path = tmp_path / "file"

    guest.put(str(path), content, mode=0o640)

    assert guest.get(str(path)) == content
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_put_with_an_owner(guest: AgentGuest, tmp_path: Path) -> None:
    guest.put(str(tmp_path / "file"), b"x", owner=getpass.getuser())

    assert (tmp_path / "file").owner() == getpass.getuser()


def test_put_where_there_is_no_folder(guest: AgentGuest) -> None:
    with pytest.raises(GuestError, match="cannot write `/no/folder/x` in the guest: No such file"):
        guest.put("/no/folder/x", bytes(300_000))


def test_put_on_a_full_disk_leaves_nothing(guest: AgentGuest) -> None:
    with pytest.raises(GuestError, match=r"cannot write `/dev/full/x` in the guest: Not a directory"):
        guest.put("/dev/full/x", b"x")


def test_put_given_up_in_the_middle_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    with Channel(folder).session() as session:
        session.send({"op": "put", "path": str(tmp_path / "file")})
        session.send({"data": "YWJj"})
        assert wait_until(lambda: any(tmp_path.iterdir()))

    assert wait_until(lambda: not any(tmp_path.iterdir()))


def test_get_what_is_not_there(guest: AgentGuest) -> None:
    with pytest.raises(GuestError) as caught:
        guest.get("/no/file")

    assert str(caught.value) == "cannot read `/no/file` in the guest: No such file or directory (`/no/file`)"


def test_get_a_device_is_refused(guest: AgentGuest) -> None:
    with pytest.raises(GuestError, match="`/dev/zero` is no regular file"):
        guest.get("/dev/zero")


def test_paths_must_be_absolute(guest: AgentGuest) -> None:
    with pytest.raises(GuestError, match="`path` must be an absolute path in the guest"):
        guest.get("etc/passwd")


# --- kernels
# -----------------------------------------------------------------------------------------------------


def test_a_kernel_runs_cells_and_outlives_its_client(guest: AgentGuest, folder: Path) -> None:
    connection = {"key": "0123456789abcdef", "signature_scheme": "hmac-sha256", "transport": "tcp"}

    kernel = guest.start_kernel(connection, env={"SECRET": "in the environment"}, cwd=None)
    path = folder / "kernels" / kernel.kernel_id / "connection.json"
    client = BlockingKernelClient(ip="127.0.0.1", **kernel.ports)
    client.session.key = b"0123456789abcdef"
    client.start_channels(hb=False)  # a busy host is late for a heartbeat
    try:
        hearing.ready(client, timeout=30)
        printed: list[str] = []
        client.execute_interactive(
            "import os; print(os.getpid(), os.environ['SECRET'])",
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
            timeout=30,
        )
        mode, private = path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777
    finally:
        client.stop_channels()
    running = guest.poll_kernel(kernel.kernel_id)
    guest.signal_kernel(kernel.kernel_id, signal.SIGKILL)

    assert "".join(printed) == f"{kernel.pid} in the environment\n"
    assert (mode, private) == (0o600, 0o700)
    assert running is None
    assert wait_until(lambda: guest.poll_kernel(kernel.kernel_id) == -signal.SIGKILL)
    assert wait_until(lambda: not path.exists())
    guest.signal_kernel(kernel.kernel_id, signal.SIGKILL)  # nothing happens any more


def test_a_kernel_that_dies_leaves_its_words(guest: AgentGuest) -> None:
    kernel = guest.start_kernel({}, env={"PYTHONHOME": "/nowhere"}, cwd=None)

    assert wait_until(lambda: guest.poll_kernel(kernel.kernel_id) == 1)
    assert "PYTHONHOME = '/nowhere'" in guest.kernel_log(kernel.kernel_id)


def test_a_kernel_nobody_started(guest: AgentGuest) -> None:
    with pytest.raises(GuestError, match="there is no kernel `abc`"):
        guest.poll_kernel("abc")


# --- bad requests
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"op": "dance"}, "there is no `dance`"),
        ({}, "there is no `None`"),
        ({"op": "exec"}, "`exec` needs 'argv'"),
        ({"op": "exec", "argv": []}, "`argv` must be a list of strings, and not empty"),
        ({"op": "exec", "argv": ["a\0b"]}, "embedded null byte"),
        ({"op": "get"}, "`get` needs 'path'"),
        ({"op": "clock", "time": "noon"}, "could not convert string to float: 'noon'"),
        ({"op": "kernel_signal", "kernel_id": "x", "signal": 9}, "there is no kernel `x`"),
    ],
)
def test_a_bad_request_gets_its_reason(folder: Path, request_: dict[str, object], reason: str) -> None:
    with Channel(folder).session() as session:
        session.send(request_)

        assert session.receive(5) == {"error": reason}
        assert pinged(session)["agent"] >= 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode)))
def test_garbage_on_a_port_harms_nobody(folder: Path, garbage: bytes) -> None:
    with Channel(folder).connect() as session:
        session.connection.sendall(garbage)
        session.greet(5)

        assert pinged(session)["agent"] >= 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    op=st.sampled_from(["exec", "put", "get", "kernel_poll", "kernel_signal", "kernel_log", "ping"]),
    fields=st.dictionaries(st.sampled_from(["path", "env", "cwd", "user", "mode", "kernel_id"]), json_values),
)
def test_nonsense_requests_harm_nobody(folder: Path, op: str, fields: dict[str, object]) -> None:
    with Channel(folder).connect() as session:
        session.greet(5)
        session.connection.sendall(json.dumps({**fields, "op": op}).encode() + b"\n")
        session.greet(5)

        assert pinged(session)["agent"] >= 1


def test_a_line_without_end_is_thrown_away(folder: Path) -> None:
    with Channel(folder).connect() as session:
        for _ in range(5):
            session.connection.sendall(b"x" * 1_000_000)
        session.greet(5)


def alive(pid: int) -> bool:
    """A process that is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
