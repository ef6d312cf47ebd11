"""A notebook attached to a kernel whose notebook is gone: what nobody heard is shown, once and in order."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import agent_world
import hearing
import pytest
from jupyter_client.manager import KernelManager
from notebook_frontend import PATIENCE, Frontend
from test_keeping import COUNT, leave_in_the_middle, start, until

from mlvm.kernel import launch, registry
from mlvm.machine.channel import AgentGuest
from mlvm.machine.record import Record

pytestmark = pytest.mark.jupyter

ENTER = """\
import pathlib, sys
sys.path.insert(0, {tests!r})
import agent_world
agent_world.enter(pathlib.Path({folder!r}))
%load_ext mlvm"""
NUMBERS = "".join(f"{i}\n" for i in range(10))


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """A machine whose agent is real, in a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="mlvm-t-") as made:
        folder = Path(made)
        monkeypatch.setenv("MLVM_HOME", str(folder / "home"))
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            monkeypatch.setenv(name, str(folder / name.lower()))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        monkeypatch.setattr(launch, "open_machine", launch.open_machine)  # put back at the end
        monkeypatch.setattr(agent_world.table, "PROVIDERS", agent_world.table.PROVIDERS)
        with agent_world.agent(folder):
            yield agent_world.enter(folder)


@pytest.fixture
def notebook(record: Record) -> Iterator[Frontend]:
    """A notebook on a local kernel, the magics loaded, in the world of that machine."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    hearing.ready(client, timeout=PATIENCE)
    frontend = Frontend(client)
    opening = ENTER.format(tests=str(Path(__file__).parents[1]), folder=str(agent_world.World.folder))
    assert frontend.run(opening).reply["status"] == "ok"
    yield frontend
    client.stop_channels()
    manager.shutdown_kernel()


def only(record: Record) -> registry.Known:
    (known,) = registry.in_machine(record, AgentGuest(agent_world.World.folder))
    return known


def test_what_was_missed_is_shown_at_once_and_once(record: Record, notebook: Frontend) -> None:
    leave_in_the_middle(start(record))
    until(lambda: not only(record).busy)

    ran = notebook.run(f"%mlvm attach {only(record).kernel_id[:8]}")
    after = notebook.run("print('mine')\n_i")

    assert ran.reply["status"] == "ok", ran.reply
    assert ran.text
    assert NUMBERS.endswith(ran.text)
    assert "'the value'" in [one["data"].get("text/plain") for one in ran.contents("display_data")]
    assert after.text == "mine\n"
    assert after.contents("execute_result")[0]["data"]["text/plain"] == repr(COUNT)


def test_a_busy_kernel_is_attached_to_and_the_next_cell_shows_all(record: Record, notebook: Frontend) -> None:
    leave_in_the_middle(start(record))
    began = time.monotonic()

    ran = notebook.run(f"%mlvm attach {only(record).kernel_id[:8]}")
    attached_after = time.monotonic() - began
    after = notebook.run("print('mine')")

    assert ran.reply["status"] == "ok", ran.reply
    assert after.text.endswith("mine\n"), attached_after
    assert NUMBERS.endswith(ran.text + after.text.removesuffix("mine\n"))


def test_a_kernel_in_use_is_not_attached_to(record: Record, notebook: Frontend) -> None:
    kernel = start(record)

    ran = notebook.run(f"%mlvm attach {only(record).kernel_id[:8]}")

    assert "is in use" in ran.reply["evalue"]
    kernel.discard()


def test_a_second_kernel_in_the_same_machine_is_refused(record: Record, notebook: Frontend) -> None:
    kernel = start(record)
    name = only(record).kernel_id[:8]
    kernel.close()
    notebook.run("%mlvm attach box")

    ran = notebook.run(f"%mlvm attach {name}")

    assert ran.reply["evalue"] == "this notebook has a kernel in machine `box` already"


def test_what_died_behind_another_cell_never_ran(record: Record, notebook: Frontend) -> None:
    """The guest knows which cells it had begun: one that waited for another has done nothing."""
    leave_in_the_middle(start(record))
    notebook.run(f"%mlvm attach {only(record).kernel_id[:8]}")
    guest = AgentGuest(agent_world.World.folder)
    waiting = notebook.client.execute("ran = 1")
    time.sleep(0.5)
    began = time.monotonic()

    guest.signal_kernel(only(record).kernel_id, 9)
    died = notebook.follow(waiting)

    assert time.monotonic() - began < 3
    assert died.reply["evalue"] == "the kernel in machine `box` died before this cell (never ran)"
    assert "killed by signal 9" in "".join(died.reply["traceback"])
