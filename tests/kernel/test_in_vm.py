"""Kernels in a real machine: the same conformance suite, the shipped notebooks, and proof of where they ran."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import hearing
import nbformat
import papermill
import pytest
import zmq
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from test_conformance import Conformance
from test_provisioner import client_of, execute, until

from mlvm.events import SILENT
from mlvm.kernel import kernelspec
from mlvm.machine.provider import Provider
from mlvm.machine.record import Record
from mlvm.machine.table import provider_for
from mlvm.paths import Home, shipped
from mlvm.project import Project

pytestmark = [pytest.mark.boot, pytest.mark.network]

BOX = "sklearn"
MACHINE = "kernel-test"
KERNEL = "mlvm-kernel-test"
QUICKSTART = Path(__file__).parent.parent.parent / "notebooks" / "quickstart.ipynb"

#: A cell that tells where it runs.
WHERE = """\
import json, os, pathlib
print(json.dumps([os.uname().nodename, os.uname().release, pathlib.Path("/proc/cmdline").read_text(), os.getpid()]))
"""


@pytest.fixture(scope="module")
def machine(chain_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    """One machine for all tests of this module, with a kernelspec for it; destroyed at the end."""
    folder = tmp_path_factory.mktemp("jupyter")
    project = Project(folder=shipped("boxes") / BOX, home=chain_home)
    record = project.up(MACHINE, frozen=True, observer=SILENT)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(variable, str(folder / variable.lower()))
        kernelspec.install(project.spec(), project.folder, name=KERNEL, machine=MACHINE)
        # As in a machine that started warm: each kernel is forked from one that has imported what it needs.
        provider_for(record).guest(record).prepare_kernel(["numpy"])
        yield record
    provider_for(record).destroy(record, observer=SILENT)


@pytest.fixture
def provider(machine: Record) -> Provider:
    return provider_for(machine)


@pytest.fixture
def manager(machine: Record) -> Iterator[KernelManager]:
    """A manager with a kernel in the machine."""
    made = KernelManager(kernel_name=KERNEL)
    made.start_kernel()
    yield made
    if made.has_kernel:
        made.shutdown_kernel(now=True)


@pytest.mark.usefixtures("machine")
class TestVm(Conformance):
    """Jupyter's whole conformance suite."""

    __test__ = True
    kernel_name = KERNEL


def test_cells_run_in_the_guest(manager: KernelManager, provider: Provider, machine: Record) -> None:
    with client_of(manager) as client:
        nodename, release, cmdline, pid = json.loads(execute(client, WHERE)[1])

    told = provider.guest(machine).run(["cat", f"/proc/{pid}/cmdline"]).stdout
    assert nodename == MACHINE
    assert release != os.uname().release
    assert "mlvm.layers=" in cmdline
    assert b"/usr/lib/mlvm/agent/" in told


def test_interrupt_restart_and_death(
    manager: KernelManager, caplog: pytest.LogCaptureFixture, provider: Provider, machine: Record
) -> None:
    with client_of(manager) as client:
        ports = manager.ports
        sleeping = client.execute("import time; print('go', flush=True); time.sleep(300)")
        while client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
            pass
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=60))["parent_header"]["msg_id"] != sleeping:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert execute(client, "kept = 1; print(kept)")[1] == "1\n"

        manager.restart_kernel()
        hearing.ready(client, timeout=120)
        assert execute(client, "kept")[0]["ename"] == "NameError"
        assert manager.ports == ports

        client.execute("import os; os._exit(3)")
        until(lambda: not manager.is_alive())
        assert f"the kernel in machine `{MACHINE}` ended with code 3" in caplog.text


def test_a_plain_text_client_hears_nothing(manager: KernelManager) -> None:
    eavesdropper = zmq.Context.instance().socket(zmq.SUB)
    eavesdropper.linger = 0
    eavesdropper.setsockopt(zmq.SUBSCRIBE, b"")
    eavesdropper.connect(f"tcp://127.0.0.1:{manager.iopub_port}")
    try:
        time.sleep(3)
        with client_of(manager) as client:
            assert execute(client, "print('secret')")[1] == "secret\n"
        assert eavesdropper.poll(3000) == 0
    finally:
        eavesdropper.close()


def test_large_output_arrives_whole(manager: KernelManager) -> None:
    with client_of(manager) as client:
        _, written = execute(client, "for _ in range(10 * 1024): print('x' * 1023)")

    assert len(written) == 10 * 1024 * 1024


def test_nbclient_runs_the_quickstart(machine: Record, provider: Provider) -> None:
    guest = provider.guest(machine)
    guest.run(["rm", "-f", "/home/mlvm/quickstart.txt"])
    notebook = nbformat.read(QUICKSTART, as_version=4)

    NotebookClient(notebook, kernel_name=KERNEL, timeout=600, startup_timeout=300).execute()

    assert_ran_in_guest(notebook, guest.get("/home/mlvm/quickstart.txt"))


def test_papermill_runs_the_quickstart(machine: Record, provider: Provider, tmp_path: Path) -> None:
    guest = provider.guest(machine)
    guest.run(["rm", "-f", "/home/mlvm/quickstart.txt"])

    papermill.execute_notebook(
        QUICKSTART,
        tmp_path / "out.ipynb",
        kernel_name=KERNEL,
        progress_bar=False,
        start_timeout=300,
        execution_timeout=600,
    )

    assert_ran_in_guest(
        nbformat.read(tmp_path / "out.ipynb", as_version=4), guest.get("/home/mlvm/quickstart.txt")
    )


def test_single_cells_from_an_ordinary_kernel(machine: Record) -> None:
    sources = [
        "%load_ext mlvm",
        "%mlvm status",
        f"%%mlvm {MACHINE}\n{WHERE}",
        f"%%mlvm {MACHINE}\nos.uname().nodename",
    ]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])

    NotebookClient(notebook, kernel_name="python3", timeout=300).execute()

    _, status, where, value = notebook.cells
    assert f"{MACHINE}  running" in status.outputs[0].data["text/plain"]
    assert json.loads(where.outputs[0].text)[0] == MACHINE
    assert (value.outputs[0].output_type, value.outputs[0].data["text/plain"]) == (
        "execute_result",
        f"'{MACHINE}'",
    )


def test_suspend_and_resume_keep_the_kernel(
    manager: KernelManager, provider: Provider, machine: Record
) -> None:
    project = Project(folder=Path(machine.project), home=machine.home)
    with client_of(manager) as client:
        execute(client, "kept = 41")
        ports = manager.ports

        provider.suspend(machine, observer=SILENT)
        asleep = manager.is_alive()
        project.up(MACHINE, frozen=True, observer=SILENT)
        until(manager.is_alive)

        hearing.ready(client, timeout=120)
        assert execute(client, "print(kept + 1)")[1] == "42\n"
        assert (asleep, manager.ports) == (True, ports)


def test_starting_a_kernel_boots_a_stopped_machine(machine: Record, provider: Provider) -> None:
    provider.stop(machine, observer=SILENT)
    manager = KernelManager(kernel_name=KERNEL)

    manager.start_kernel()

    try:
        with client_of(manager) as client:
            assert json.loads(execute(client, WHERE)[1])[0] == MACHINE
    finally:
        manager.shutdown_kernel(now=True)


def assert_ran_in_guest(notebook: nbformat.NotebookNode, written: bytes) -> None:
    """The notebook's outputs name the machine and its guest kernel; its file is on the guest's disk, not here."""
    text = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", ()))
    release = next(line.split()[-1] for line in text.splitlines() if line.startswith("guest kernel:"))
    assert f"host name:     {MACHINE}\n" in text
    assert release != os.uname().release
    assert "layers, lowest first: system modules python agent" in text
    assert written.decode().endswith(f" on {MACHINE}\n")
    assert not (Path.home() / "quickstart.txt").exists()
    assert any("image/png" in o.get("data", {}) for cell in notebook.cells for o in cell.get("outputs", ()))
