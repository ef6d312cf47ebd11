"""A real Jupyter server over HTTP and websockets, as JupyterLab uses it: killed, started again, kernels dying."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import agent_world
import nbformat
import pytest
import requests
import websocket
from test_keeping import COUNT, text, until

from mlvm.kernel import kernelspec, launch, registry
from mlvm.machine.channel import AgentGuest
from mlvm.spec.document import Spec

pytestmark = pytest.mark.jupyter

TESTS = Path(__file__).parents[1]
NOTEBOOK = TESTS.parent / "notebooks" / "survives.ipynb"
WAIT = 240


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose agent is real, and Jupyter's folders, with a kernelspec for it."""
    with tempfile.TemporaryDirectory(prefix="mlvm-t-") as made, agent_world.agent(Path(made)):
        monkeypatch.setenv("MLVM_HOME", f"{made}/home")
        for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            monkeypatch.setenv(variable, f"{made}/{variable.lower()}")
        monkeypatch.setattr(launch, "open_machine", launch.open_machine)  # put back at the end
        monkeypatch.setattr(agent_world.table, "PROVIDERS", agent_world.table.PROVIDERS)
        agent_world.enter(Path(made))
        kernelspec.install(Spec(name="box"), Path(made) / "project")
        yield Path(made)


class Server:
    """A Jupyter server, and one notebook's session in it."""

    def __init__(self, command: list[str], env: dict[str, str], root: Path) -> None:
        self.token = secrets.token_hex(16)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = {
            "ServerApp.port": self.port,
            "ServerApp.root_dir": root,
            "IdentityProvider.token": self.token,
            "ServerApp.open_browser": False,
            "ServerApp.allow_root": True,
        }
        self.log = (root / f"server-{self.port}.log").open("wb")
        self.process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env={**os.environ, **env},
            stdout=self.log,
            stderr=self.log,
        )
        try:
            until(self._answers, seconds=WAIT)
        except BaseException:
            self.end()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, Path(self.log.name).read_text()
        try:
            return self.ask("get", "status").ok
        except requests.ConnectionError:
            return False

    def ask(self, verb: str, what: str, **fields: Any) -> requests.Response:
        return requests.request(
            verb,
            f"http://127.0.0.1:{self.port}/api/{what}",
            headers={"Authorization": f"token {self.token}"},
            json=fields or None,
            timeout=WAIT,
        )

    def open(self, notebook: str, kernel: str) -> str:
        """Open a notebook as Lab does; return its kernel's id."""
        answer = self.ask(
            "post", "sessions", path=notebook, name=notebook, type="notebook", kernel={"name": kernel}
        )
        assert answer.ok, answer.text + Path(self.log.name).read_text()
        return str(answer.json()["kernel"]["id"])

    @contextmanager
    def channels(self, kernel_id: str) -> Iterator[Channels]:
        """The websocket of a kernel, as one page of a browser has it."""
        session = uuid.uuid4().hex
        url = f"ws://127.0.0.1:{self.port}/api/kernels/{kernel_id}/channels?session_id={session}"
        made = websocket.create_connection(url, header={"Authorization": f"token {self.token}"}, timeout=WAIT)
        try:
            yield Channels(made, session)
        finally:
            made.close()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


class Channels:
    """All channels of a kernel over one websocket."""

    def __init__(self, made: websocket.WebSocket, session: str) -> None:
        self.websocket, self.session = made, session

    def execute(self, code: str) -> str:
        """Send a cell; return the id of the request."""
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "username": "ada",
            "session": self.session,
            "version": "5.3",
            "date": "2026-01-01T00:00:00Z",
        }
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        content |= {"allow_stdin": False, "stop_on_error": True}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        self.websocket.send(json.dumps({**message, "channel": "shell"}))
        return str(header["msg_id"])

    def next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.websocket.recv())
        return {**message, "msg_type": message["header"]["msg_type"]}

    def hear(self, request: str) -> list[dict[str, Any]]:
        """Return what a request caused on iopub, up to its `idle`."""
        heard = []
        while True:
            message = self.next()
            if message["channel"] == "iopub" and message["parent_header"].get("msg_id") == request:
                heard.append(message)
                if message["content"].get("execution_state") == "idle":
                    return heard


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A Jupyter server that finds the machine of `folder`."""
    command = [sys.executable, "-m", "agent_world", str(folder), "jupyter_server"]
    made = Server(command, {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}, folder)
    try:
        yield made
    finally:
        made.end()


def test_a_notebook_finds_its_kernel_again_after_the_server_was_killed(folder: Path) -> None:
    record, guest = agent_world.enter(folder), AgentGuest(folder)
    with server(folder) as first:
        with first.channels(first.open("train.ipynb", "mlvm-box")) as page:
            page.hear(page.execute("kept = 41"))
            page.execute(COUNT)
            while "1\n" not in page.next()["content"].get("text", ""):
                pass
            first.process.kill()
            first.process.wait()
    until(lambda: not registry.in_machine(record, guest)[0].busy)

    with server(folder) as second:
        with second.channels(second.open("train.ipynb", "mlvm-box")) as page:
            shown = page.hear(page.execute("print(kept + 1)"))
            again = page.hear(page.execute("print('again')"))

    assert len(guest.list_kernels()) == 1
    lines = text(shown).splitlines()
    assert lines[0].startswith("[mlvm] said from ")
    assert lines[-2:] == ["[mlvm] end of what was missed", "42"]
    numbers = [int(line) for line in lines[:-1] if line.isdigit()]
    assert numbers == list(range(numbers[0], 10))
    assert numbers[0] <= 3
    assert [m["content"]["data"]["text/plain"] for m in shown if m["msg_type"] == "display_data"] == [
        "'the value'"
    ]
    assert text(again) == "again\n"


def test_the_notebook_of_a_training_run_survives_a_killed_server(folder: Path) -> None:
    cells = {
        cell.metadata.get("tags", [""])[0]: cell.source
        for cell in nbformat.read(NOTEBOOK, as_version=4).cells
        if cell.cell_type == "code"
    }
    with server(folder) as first, first.channels(first.open("survives.ipynb", "mlvm-box")) as page:
        page.hear(page.execute(cells[""]))
        page.execute(cells["training"])
        while "epoch  3" not in page.next()["content"].get("text", ""):
            pass
        first.process.kill()
        first.process.wait()

    with server(folder) as second:
        with second.channels(second.open("survives.ipynb", "mlvm-box")) as page:
            shown = text(page.hear(page.execute(cells["back"])))

    epochs = [int(line.split()[1]) for line in shown.splitlines() if line.startswith("epoch")]
    assert epochs == list(range(epochs[0], 21))
    assert "with 20 epochs done\ny = 3.0" in shown or "with 20 epochs done\ny = 2.9" in shown


def test_another_notebook_gets_a_kernel_of_its_own(folder: Path) -> None:
    with server(folder) as first:
        first.open("train.ipynb", "mlvm-box")
    with server(folder) as second:
        with second.channels(second.open("other.ipynb", "mlvm-box")) as page:
            shown = text(page.hear(page.execute("print('kept' in dir())")))

    assert shown == "False\n"
    assert len(AgentGuest(folder).list_kernels()) == 2


def test_death_is_shown_within_three_seconds(folder: Path) -> None:
    with server(folder) as made, made.channels(made.open("a.ipynb", "mlvm-box")) as page:
        page.hear(page.execute("1"))
        time.sleep(1)
        page.execute("import os, time; print(time.time(), flush=True); time.sleep(0.2); os._exit(3)")
        while (message := page.next())["msg_type"] != "stream":
            pass
        died = float(message["content"]["text"]) + 0.2

        while page.next()["content"].get("execution_state") not in {"restarting", "dead"}:
            pass

        assert time.time() - died < 3
    assert "the kernel in machine `box` ended with code 3" in Path(made.log.name).read_text()
