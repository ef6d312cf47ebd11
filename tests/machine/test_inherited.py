"""Kernels of a forked machine: released, waiting and claimed again. For real, in an agent without a machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import hearing
import pytest

from mlvm.errors import GuestError
from mlvm.machine.channel import AgentGuest

from .test_nursery import Notebook

pytestmark = pytest.mark.jupyter


def become_fork(guest: AgentGuest) -> list[str]:
    """Tell the agent that its machine is a fork now; return the kernels that wait."""
    guest.renew(fork=True)
    return [kernel.kernel_id for kernel in guest.waiting_kernels()]


@pytest.fixture(params=["its own process", "of a nursery"])
def first(request: pytest.FixtureRequest, guest: AgentGuest, open_notebook) -> Notebook:
    """A notebook whose kernel has a variable."""
    if request.param == "of a nursery":
        guest.prepare_kernel([])
    notebook = open_notebook()
    notebook.run("x = 41")
    return notebook


def test_the_next_kernel_has_the_variables(guest: AgentGuest, first: Notebook, open_notebook) -> None:
    assert become_fork(guest) == [first.kernel.kernel_id]

    claimed = open_notebook()

    assert claimed.kernel.pid == first.kernel.pid
    assert claimed.run("x + 1") == "42"
    assert guest.waiting_kernels() == []
    assert open_notebook().kernel.pid != first.kernel.pid


def test_nothing_that_the_former_client_knows_is_left(
    guest: AgentGuest,
    first: Notebook,
    tmp_path: Path,
) -> None:
    become_fork(guest)

    for port in first.kernel.ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, port
    assert list((tmp_path / "kernels").rglob("connection.json")) == []
    with pytest.raises(GuestError, match="there is no kernel"):
        guest.poll_kernel(first.kernel.kernel_id)


def test_keys_ports_ids_and_random_numbers_are_new(guest: AgentGuest, first: Notebook, open_notebook) -> None:
    look = (
        "import random, json; k = get_ipython().kernel; random.seed(1)\n"
        "print(json.dumps([k.session.key.decode(), k.session.session, k.ident, random.getstate()[1][:4]]))"
    )
    before = json.loads(first.run(look))
    become_fork(guest)

    claimed = open_notebook()
    after = json.loads(claimed.run(look.replace("random.seed(1)", "")))

    assert [index for index in range(4) if before[index] == after[index]] == []
    assert claimed.kernel.kernel_id != first.kernel.kernel_id
    assert set(claimed.kernel.ports.values()).isdisjoint(first.kernel.ports.values())


def test_a_running_cell_goes_on_and_what_is_queued_behind_it_does_not(
    guest: AgentGuest,
    first: Notebook,
    open_notebook,
) -> None:
    hearing.ready(first.client, timeout=30)
    first.client.execute("import time\nfor n in range(30): time.sleep(0.1)\ny = 'went on'")
    first.client.execute("y = 'ran here, too'")
    time.sleep(1)

    become_fork(guest)

    assert open_notebook().run("y, x") == "('went on', 41)"


def test_a_running_cell_can_be_interrupted_by_whoever_claims_its_kernel(
    guest: AgentGuest,
    first: Notebook,
    open_notebook,
) -> None:
    hearing.ready(first.client, timeout=30)
    first.client.execute("import time\nx = 'interrupted'\ntime.sleep(1000)")
    time.sleep(1)
    become_fork(guest)

    claimed = open_notebook()
    claimed.client.control_channel.send(claimed.client.session.msg("interrupt_request"))

    # First what the cell said that nobody could hear: that it was interrupted.
    assert claimed.run("x").endswith("'interrupted'")


def test_who_is_claimed(guest: AgentGuest, open_notebook) -> None:
    """The same notebook's, else the one used last; or the one that is named."""
    names = ("one.ipynb", "two.ipynb", "three.ipynb", "four.ipynb", "five.ipynb")
    opened = {name: open_notebook({"JPY_SESSION_NAME": name}) for name in names}
    for name, notebook in opened.items():
        notebook.run(f"me = {name!r}")
    opened["two.ipynb"].run("1")
    become_fork(guest)

    assert [kernel.notebook for kernel in guest.waiting_kernels()] == [
        "two.ipynb",
        "five.ipynb",
        "four.ipynb",
        "three.ipynb",
        "one.ipynb",
    ]
    assert open_notebook({"JPY_SESSION_NAME": "one.ipynb"}).run("me") == "'one.ipynb'"
    assert open_notebook({"JPY_SESSION_NAME": "other.ipynb"}).run("me") == "'two.ipynb'"
    assert open_notebook(claim=opened["four.ipynb"].kernel.kernel_id[:8]).run("me") == "'four.ipynb'"
    assert open_notebook(claim="three.ipynb").run("me") == "'three.ipynb'"
    with pytest.raises(GuestError, match=r"no kernel `three.ipynb` waits here \(waiting: five.ipynb\)"):
        open_notebook(claim="three.ipynb")
    assert "NameError" in open_notebook(claim="new").run("me")
    assert open_notebook().run("me") == "'five.ipynb'"


def test_a_fork_of_a_fork(guest: AgentGuest, first: Notebook, open_notebook) -> None:
    """Released twice, once without having been claimed in between."""
    become_fork(guest)
    become_fork(guest)
    open_notebook().run("x += 1")
    become_fork(guest)

    claimed = open_notebook()

    assert (claimed.kernel.pid, claimed.run("x")) == (first.kernel.pid, "42")


def test_a_kernel_that_ends_while_it_waits_is_not_claimed(
    guest: AgentGuest, first: Notebook, open_notebook
) -> None:
    become_fork(guest)
    os.kill(first.kernel.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while guest.waiting_kernels() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert "NameError" in open_notebook().run("x")
