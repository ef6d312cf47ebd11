"""Kernels outlive their clients: what they say is kept, and delivered once, in order, to whoever goes on with them."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import agent_world
import hearing
import pytest
import zmq
from jupyter_client import BlockingKernelClient

from mlvm.agent import tape
from mlvm.errors import KernelError, Outcome
from mlvm.kernel import launch, registry
from mlvm.machine.channel import AgentGuest
from mlvm.machine.record import Record

pytestmark = pytest.mark.jupyter

WAIT = 120
SESSION = "/home/ada/train.ipynb"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="mlvm-t-") as made:
        yield Path(made)


@pytest.fixture
def record(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """A machine whose agent is real."""
    monkeypatch.setenv("MLVM_HOME", str(folder / "home"))
    monkeypatch.setattr(launch, "open_machine", launch.open_machine)  # put back at the end
    monkeypatch.setattr(agent_world.table, "PROVIDERS", agent_world.table.PROVIDERS)
    with agent_world.agent(folder):
        yield agent_world.enter(folder)


@pytest.fixture
def guest(record: Record) -> AgentGuest:
    return AgentGuest(agent_world.World.folder)


@pytest.fixture
def kernel(record: Record) -> launch.LiveKernel:
    return start(record)


def start(record: Record, *, session: str = SESSION) -> launch.LiveKernel:
    public, secret = zmq.curve_keypair()
    connection = {
        "key": secrets.token_hex(16),
        "signature_scheme": "hmac-sha256",
        "kernel_name": "mlvm-box",
        "curve_publickey": public.decode(),
        "curve_secretkey": secret.decode(),
    }
    place = launch.Place(project=Path(record.project), machine=record.name, home=record.home)
    kernel = launch.start(place, connection, env={"JPY_SESSION_NAME": session})
    kernel.connection = {**connection, **kernel.ports}  # type: ignore[attr-defined]
    return kernel


def connect(connection: dict[str, Any]) -> BlockingKernelClient:
    client = BlockingKernelClient()
    client.load_connection_info({"transport": "tcp", "ip": "127.0.0.1", **connection})
    client.start_channels(hb=False)
    return client


def ready(connection: dict[str, Any]) -> BlockingKernelClient:
    client = connect(connection)
    hearing.ready(client, timeout=WAIT)
    return client


def hear(client: BlockingKernelClient, request: str) -> list[dict[str, Any]]:
    """Return what a request caused on iopub, up to its `idle`."""
    heard = []
    while True:
        message = client.get_iopub_msg(timeout=WAIT)
        if message["parent_header"].get("msg_id") != request:
            continue
        heard.append(message)
        if message["content"].get("execution_state") == "idle":
            return heard


def text(messages: list[dict[str, Any]]) -> str:
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")


def until(condition: Callable[[], Any], *, seconds: float = WAIT) -> Any:
    deadline = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return met


def only(record: Record, guest: AgentGuest) -> registry.Known:
    (known,) = registry.in_machine(record, guest)
    return known


COUNT = "import time\nfor i in range(10):\n    print(i, flush=True)\n    time.sleep(0.2)\n'the value'"


def leave_in_the_middle(kernel: launch.LiveKernel) -> None:
    """Run a cell, hear its beginning, and be gone without a word, as a server that is killed."""
    client = ready(kernel.connection)  # type: ignore[attr-defined]
    client.execute(COUNT)
    while "1\n" not in client.get_iopub_msg(timeout=WAIT)["content"].get("text", ""):
        pass
    client.stop_channels()
    kernel.close()


def test_a_kernel_is_listed(kernel: launch.LiveKernel, record: Record, guest: AgentGuest) -> None:
    client = ready(kernel.connection)  # type: ignore[attr-defined]
    hear(client, client.execute("1"))

    known = only(record, guest)

    assert (known.machine, known.state, known.used, known.session) == ("box", "idle", True, SESSION)
    assert known.cells == 1
    assert known.kept > 0
    client.execute("import time; time.sleep(3)")
    until(lambda: only(record, guest).busy)
    client.stop_channels()


def test_what_nobody_heard_is_shown_by_the_next_cell(
    kernel: launch.LiveKernel, record: Record, guest: AgentGuest
) -> None:
    leave_in_the_middle(kernel)
    until(lambda: only(record, guest).missed > 3)
    found = registry.orphan(record, guest, session=SESSION, kernel_name="mlvm-box")
    assert found is not None

    adopted = registry.adopt(record, agent_world.AgentProvider(), guest, found.kernel_id)

    client = ready(dict(adopted.connection))
    missed = hear(client, client.execute("print('mine')"))
    shown = [m for m in missed if m["msg_type"] in {"stream", "display_data", "execute_result"}]
    lines = text(shown).splitlines()
    assert lines[0].startswith("[mlvm] said from ")
    assert lines[-2:] == ["[mlvm] end of what was missed", "mine"]
    numbers = [int(line) for line in lines if line.isdigit()]
    assert numbers == list(range(numbers[0], 10))
    assert numbers[0] in {1, 2}
    values = [m["content"]["data"]["text/plain"] for m in shown if m["msg_type"] == "display_data"]
    assert values == ["'the value'"]
    again = hear(client, client.execute("print('again')"))
    assert text(again) == "again\n"
    client.stop_channels()


def test_whoever_takes_the_messages_themselves_gets_them_once_and_in_order(
    kernel: launch.LiveKernel, record: Record, guest: AgentGuest
) -> None:
    leave_in_the_middle(kernel)
    until(lambda: not only(record, guest).busy)
    kernel_id = kernel.process.kernel_id

    adopted = registry.adopt(record, agent_world.AgentProvider(), guest, kernel_id, live=True)
    kept = registry.output(guest, kernel_id, after=adopted.first_missed - 1, unheard=True)

    parts = [(said.header["msg_type"], said.content) for said in kept.messages]
    written = "".join(content["text"] for kind, content in parts if kind == "stream").split()
    assert written == [str(i) for i in range(int(written[0]), 10)]
    assert [c["data"]["text/plain"] for kind, c in parts if kind == "execute_result"] == ["'the value'"]
    client = ready(dict(adopted.connection))
    assert text(hear(client, client.execute("print('mine')"))) == "mine\n"
    assert registry.in_machine(record, guest)[0].missed == 0
    client.stop_channels()


def test_the_reply_of_a_cell_is_kept_too(
    kernel: launch.LiveKernel, record: Record, guest: AgentGuest
) -> None:
    client = ready(kernel.connection)  # type: ignore[attr-defined]
    request = client.execute("1 / 0")
    hear(client, request)

    kept = registry.output(guest, kernel.process.kernel_id)

    (reply,) = [said for said in kept.messages if said.reply]
    assert reply.parent_header["msg_id"] == request
    assert reply.content["ename"] == "ZeroDivisionError"
    client.stop_channels()


def test_the_same_client_gets_everything_after_a_break(
    kernel: launch.LiveKernel, record: Record, guest: AgentGuest
) -> None:
    """The ports go and come back, as when a machine is suspended and resumed."""
    client = ready(kernel.connection)  # type: ignore[attr-defined]
    request = client.execute(COUNT)
    while "1\n" not in client.get_iopub_msg(timeout=WAIT)["content"].get("text", ""):
        pass
    guest.hold_kernels()
    provider = agent_world.AgentProvider()
    provider.unforward(record, kernel.ports)
    until(lambda: not only(record, guest).busy)

    provider.forward(record, kernel.process.ports, host_ports=kernel.ports)

    assert text(hear(client, request)).split() == [str(i) for i in range(2, 10)]
    client.stop_channels()


def test_a_hold_that_came_to_nothing_loses_nothing(
    kernel: launch.LiveKernel, record: Record, guest: AgentGuest
) -> None:
    client = ready(kernel.connection)  # type: ignore[attr-defined]
    guest.hold_kernels()
    request = client.execute("print('held')")
    until(lambda: only(record, guest).missed >= 3)

    guest.hold_kernels(release=True)

    assert text(hear(client, request)) == "held\n"
    client.stop_channels()


def test_a_kernel_in_use_is_not_adopted(kernel: launch.LiveKernel, record: Record, guest: AgentGuest) -> None:
    assert registry.orphan(record, guest, session=SESSION, kernel_name="mlvm-box") is None
    with pytest.raises(KernelError, match=r"^kernel `\w{8}` in machine `box` is in use$"):
        registry.adopt(record, agent_world.AgentProvider(), guest, kernel.process.kernel_id)


def test_another_notebooks_kernel_is_not_adopted(
    kernel: launch.LiveKernel, record: Record, guest: AgentGuest
) -> None:
    kernel.close()

    assert registry.orphan(record, guest, session="/other.ipynb", kernel_name="mlvm-box") is None
    assert registry.orphan(record, guest, session="", kernel_name="mlvm-box") is None


def test_output_is_bounded_and_a_cut_is_said(
    kernel: launch.LiveKernel, record: Record, guest: AgentGuest
) -> None:
    client = ready(kernel.connection)  # type: ignore[attr-defined]
    hear(client, client.execute("1"))
    client.execute("for i in range(40): print('x' * 999_999, flush=True)\nprint('end')")
    client.stop_channels()
    kernel.close()
    until(lambda: not (known := only(record, guest)).busy and known.missed > 30)

    assert only(record, guest).kept <= tape.LIMIT
    adopted = registry.adopt(record, agent_world.AgentProvider(), guest, kernel.process.kernel_id)
    client = ready(dict(adopted.connection))
    shown = text(hear(client, client.execute("2")))

    assert "without the first" in shown.partition("\n")[0]
    assert shown.endswith("end\n[mlvm] end of what was missed\n")
    client.stop_channels()


def test_last_words_are_there_after_death(
    kernel: launch.LiveKernel, record: Record, guest: AgentGuest
) -> None:
    client = ready(kernel.connection)  # type: ignore[attr-defined]
    request = client.execute("print('epoch 57', flush=True); import time, os; time.sleep(0.5); os._exit(3)")
    until(lambda: kernel.poll() == 3)

    kept = registry.output(guest, kernel.process.kernel_id)

    assert "epoch 57\n" in [s.content["text"] for s in kept.messages if s.header["msg_type"] == "stream"]
    assert kernel.outcome(request) is Outcome.UNKNOWN
    assert kernel.outcome("a cell that was never begun") is Outcome.NEVER_RAN
    assert only(record, guest).state == "ended (3)"
    client.stop_channels()


def test_a_killed_server_and_its_successor(record: Record, guest: AgentGuest, folder: Path) -> None:
    """Two processes, as two Jupyter servers: the first is killed, the second goes on with the same notebook."""
    first = subprocess.Popen(
        [sys.executable, "-m", "agent_world", str(folder), "one_server"],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}"},
        stdout=subprocess.PIPE,
    )
    assert first.stdout is not None
    told = json.loads(first.stdout.readline())
    assert only(record, guest).used
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stdout.close()
    place = launch.Place(project=Path(record.project), machine=record.name, home=record.home)

    adopted = until(lambda: registry.adopt_orphan(place, session=SESSION, kernel_name="mlvm-box"))

    assert adopted.kernel.process.kernel_id == told["kernel_id"]
    client = ready(dict(adopted.connection))
    assert text(hear(client, client.execute("print(kept + 1)"))).endswith("42\n")
    client.stop_channels()
