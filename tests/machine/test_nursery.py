"""Kernels that are ready before they know their keys, and kernels that are forked: for real, without a machine."""

from __future__ import annotations

import getpass
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hearing
import pytest
import zmq
from jupyter_client import BlockingKernelClient

from mlvm.agent import cradle, nursing
from mlvm.errors import GuestError
from mlvm.machine.channel import AgentGuest
from mlvm.machine.guest import GuestKernelProcess

pytestmark = pytest.mark.jupyter

AGENT = Path(__file__).parents[2] / "mlvm" / "agent" / "main.py"


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[AgentGuest]:
    """A guest that is this host, without a kernel."""
    yield from agent(tmp_path)


@pytest.fixture
def booted(tmp_path: Path) -> Iterator[AgentGuest]:
    """The same, as one that has just booted: with an early kernel."""
    yield from agent(tmp_path, early="yes")


def agent(tmp_path: Path, **more: str) -> Iterator[AgentGuest]:
    world = {
        **more,
        "sockets": tmp_path,
        "user": getpass.getuser(),
        "python": sys.executable,
        "kernel-ip": "127.0.0.1",
        "kernels": tmp_path / "kernels",
        "logs": tmp_path / "logs",
    }
    options = [word for name, value in world.items() for word in (f"--{name}", str(value))]
    agent = subprocess.Popen([sys.executable, "-I", str(AGENT), *options])
    deadline = time.monotonic() + 10
    while not (tmp_path / "agent-7.sock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    yield AgentGuest(tmp_path)
    agent.terminate()
    agent.wait()


class Notebook:
    """A kernel just started, and a client that knows its keys."""

    def __init__(self, guest: AgentGuest, env: dict[str, str] | None = None, claim: str = "") -> None:
        public, secret = zmq.curve_keypair()
        key = secrets.token_hex(16)
        connection = {
            "key": key,
            "signature_scheme": "hmac-sha256",
            "curve_publickey": public.decode(),
            "curve_secretkey": secret.decode(),
        }
        self.guest = guest
        self.began = time.monotonic()
        self.kernel: GuestKernelProcess = guest.start_kernel(connection, env=env or {}, cwd=None, claim=claim)
        self.client = BlockingKernelClient(
            ip="127.0.0.1", curve_publickey=public, curve_secretkey=secret, **self.kernel.ports
        )
        self.client.session.key = key.encode()
        self.client.start_channels(hb=False)

    def run(self, code: str) -> str:
        printed: list[str] = []

        def hook(message: dict) -> None:
            content = message["content"]
            if message["msg_type"] == "error":
                printed.append("\n".join(content["traceback"]))
            printed.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

        hearing.ready(self.client, timeout=30)
        self.client.execute_interactive(code, timeout=30, output_hook=hook)
        return "".join(printed)

    def close(self) -> None:
        with suppress(ProcessLookupError):  # the agent of a fork does not know it by its former id
            os.killpg(self.kernel.pid, signal.SIGKILL)
        self.client.stop_channels()


@pytest.fixture
def open_notebook(guest: AgentGuest) -> Iterator[type]:
    opened: list[Notebook] = []

    def opener(env: dict[str, str] | None = None, claim: str = "") -> Notebook:
        opened.append(Notebook(guest, env, claim))
        return opened[-1]

    yield opener  # type: ignore[misc]
    for notebook in opened:
        notebook.close()


def test_the_ready_kernel_is_the_one_that_waited(guest: AgentGuest, open_notebook) -> None:
    pid = guest.prepare_kernel(["fractions"])

    notebook = open_notebook({"NEW": "variable"})

    assert notebook.kernel.pid == pid
    assert notebook.run("import os; print(os.getpid(), os.environ['NEW'])") == f"{pid} variable\n"
    assert notebook.run("import sys; 'fractions' in sys.modules") == "True"


def test_a_ready_kernel_listens_nowhere(guest: AgentGuest) -> None:
    pid = guest.prepare_kernel([])

    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout

    mine = [line for line in listening.splitlines() if f"pid={pid}," in line]
    assert all(line.split()[3].startswith("127.0.0.1:") for line in mine)
    # ipykernel's own pipe for children's output is there, and nothing of the five channels.
    assert len(mine) <= 1
    os.kill(pid, signal.SIGKILL)


def test_nothing_of_the_rehearsal_is_left(guest: AgentGuest, open_notebook) -> None:
    guest.prepare_kernel([])
    rehearsed, forked = open_notebook(), open_notebook()

    for code in ("[n for n in dir() if n != 'n']", "In, Out, _", "get_ipython().execution_count"):
        assert rehearsed.run(code) == forked.run(code)


def test_a_fork_has_its_own_memory_and_end(guest: AgentGuest, open_notebook) -> None:
    guest.prepare_kernel(["fractions"])
    first, second = open_notebook(), open_notebook()

    first.run("x = 1")
    assert "NameError" in second.run("x")
    assert second.run("import sys; 'fractions' in sys.modules") == "True"
    guest.signal_kernel(first.kernel.kernel_id, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while guest.poll_kernel(first.kernel.kernel_id) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert guest.poll_kernel(first.kernel.kernel_id) == -signal.SIGKILL
    assert guest.poll_kernel(second.kernel.kernel_id) is None
    assert second.run("1 + 1") == "2"


def test_exit_codes_of_forks_are_known(guest: AgentGuest, open_notebook) -> None:
    guest.prepare_kernel([])
    notebook = open_notebook()
    hearing.ready(notebook.client, timeout=30)

    notebook.client.execute("import os; os._exit(7)")

    deadline = time.monotonic() + 10
    while guest.poll_kernel(notebook.kernel.kernel_id) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert guest.poll_kernel(notebook.kernel.kernel_id) == 7


def test_what_a_process_reads_at_its_start_makes_a_new_one(guest: AgentGuest, open_notebook) -> None:
    guest.prepare_kernel(["fractions"])

    notebook = open_notebook({"PYTHONHASHSEED": "7"})

    assert notebook.run("import sys, os; os.environ['PYTHONHASHSEED'], 'fractions' in sys.modules") == (
        "('7', False)"
    )


def test_random_numbers_are_drawn_anew(guest: AgentGuest, open_notebook) -> None:
    pytest.importorskip("numpy")
    guest.prepare_kernel(["numpy", "random", "tempfile", "ssl", "multiprocessing"])
    waited, forked = open_notebook(), open_notebook()

    draw = (
        "import random, numpy, uuid, tempfile, ssl, multiprocessing, os\n"
        "[random.random(), numpy.random.random(), uuid.uuid4().hex, ssl.RAND_bytes(8),"
        " next(tempfile._get_candidate_names()), multiprocessing.current_process().authkey, os.urandom(8)]"
    )

    first, second = (eval(notebook.run(draw)) for notebook in (waited, forked))
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_a_module_that_fails_is_told(guest: AgentGuest) -> None:
    with pytest.raises(GuestError, match="No module named 'no_such_module'"):
        guest.prepare_kernel(["no_such_module"])


def early_kernel(guest: AgentGuest) -> int:
    """Return the process that waits."""
    listed = guest.run(["ps", "-eo", "pid,ppid,args"]).stdout.decode().splitlines()
    (pid,) = [int(line.split()[0]) for line in listed if "cradle.py" in line and line.endswith(" wait")]
    return pid


def opened(guest: AgentGuest, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Return the process of a kernel just started, and what a cell in it says."""
    notebook = Notebook(guest, env)
    try:
        return notebook.kernel.pid, notebook.run(
            "import os; print(1 + 1, os.getcwd(), os.environ.get('NEW'))"
        )
    finally:
        notebook.close()


def test_the_kernel_of_the_boot_is_the_first_that_is_started(booted: AgentGuest) -> None:
    early = early_kernel(booted)

    pid, said = opened(booted, {"NEW": "variable"})
    second, _ = opened(booted)

    assert pid == early
    assert said == f"2 {Path.home()} variable\n"
    assert second != early


def test_its_exit_code_is_known(booted: AgentGuest) -> None:
    notebook = Notebook(booted)
    hearing.ready(notebook.client, timeout=30)

    notebook.client.execute("import os; os._exit(7)")

    assert booted.poll_kernel(notebook.kernel.kernel_id, wait=10) == 7
    notebook.client.stop_channels()


@pytest.mark.parametrize("reason", ["variable", "nursery", "installed"])
def test_the_kernel_of_the_boot_is_not_taken_where_another_would_be_different(
    booted: AgentGuest, tmp_path: Path, reason: str
) -> None:
    early = early_kernel(booted)
    env = {}
    if reason == "variable":
        env = {"PYTHONHASHSEED": "7"}
    elif reason == "nursery":
        booted.prepare_kernel(["fractions"])
    else:
        (site,) = (Path(folder) for folder in sys.path if folder.endswith("site-packages"))
        added = site / "added-by-a-test.pth"
        wait_ready(early)
        added.touch()
        added.unlink()

    pid, said = opened(booted, env)

    assert pid != early
    assert said.startswith("2 ")
    assert not Path(f"/proc/{early}").exists()


def test_only_where_packages_are_installed_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the host's that is imported from changes with every file that somebody saves there."""
    own, installed = tmp_path / "project", tmp_path / "site-packages"
    own.mkdir()
    installed.mkdir()
    monkeypatch.setattr(sys, "path", ["", str(own), str(installed), str(tmp_path / "gone/site-packages")])

    noted = cradle.folders()

    assert noted == {str(installed): installed.stat().st_mtime_ns}
    (own / "module.py").touch()
    assert nursing.unchanged(noted)
    (installed / "package").mkdir()
    assert not nursing.unchanged(noted)


def wait_ready(pid: int) -> None:
    """Return when an early kernel does nothing more: it has noted where it imports from."""
    deadline, spent = time.monotonic() + 60, -1
    while time.monotonic() < deadline:
        user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        before, spent = spent, int(user) + int(system)
        if spent == before and "zmq" in Path(f"/proc/{pid}/maps").read_text():
            return
        time.sleep(1.5)
    raise AssertionError("it goes on and on")
