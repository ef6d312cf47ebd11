"""What happens to kernels in a real machine: they go on when nobody is there, and their end is told at once.

One machine for all of it, in an order that leaves the machine for the next; the last three end it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import test_keeping
import test_provisioner
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager
from notebook_frontend import Frontend, Ran
from test_keeping import hear, ready, text, until
from test_provisioner import client_of, execute

from mlvm.events import SILENT
from mlvm.kernel import kernelspec, launch, registry
from mlvm.machine.provider import Provider
from mlvm.machine.qemu import run_record
from mlvm.machine.record import Record
from mlvm.machine.table import provider_for
from mlvm.paths import Home, shipped
from mlvm.project import Project

pytestmark = [pytest.mark.boot, pytest.mark.network, pytest.mark.heavy]

MACHINE = "survival"
KERNEL = "mlvm-survival"
SESSION = "/home/ada/survives.ipynb"
#: Seconds within which a death has to be known.
KNOWN = 3.0
LONG = "import time\nfor i in range(40):\n    print(i, flush=True)\n    time.sleep(0.5)"


@pytest.fixture(scope="module")
def project(chain_home: Home) -> Project:
    return Project(folder=shipped("boxes") / "python-3.11", home=chain_home)


@pytest.fixture(scope="module")
def jupyter(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(variable, str(folder / variable.lower()))
        kernelspec.install(project.spec(), project.folder, name=KERNEL, machine=MACHINE)
        yield
    if record := _record(project):
        provider_for(record).destroy(record, observer=SILENT)


def _record(project: Project) -> Record | None:
    from mlvm.machine.record import load

    return load(project.home, MACHINE)


@pytest.fixture
def machine(project: Project, jupyter: None) -> Record:
    """The machine, running."""
    return project.up(MACHINE, frozen=True, observer=SILENT)


@pytest.fixture
def provider(machine: Record) -> Provider:
    return provider_for(machine)


@pytest.fixture(scope="module")
def managers() -> Iterator[list[KernelManager]]:
    """The managers so far; a kernel costs an emulated guest seconds, so one that lives is used again."""
    made: list[KernelManager] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "START_DEADLINE", 900.0)  # other guests may have most of the host
        patch.setattr(test_provisioner, "WAIT", 300)
        patch.setattr(test_keeping, "WAIT", 300)
        yield made
        for manager in made:
            if manager.has_kernel:
                manager.shutdown_kernel(now=True)


@pytest.fixture
def manager(managers: list[KernelManager], machine: Record) -> KernelManager:
    if managers and managers[-1].has_kernel and managers[-1].is_alive():
        return managers[-1]
    managers.append(KernelManager(kernel_name=KERNEL))
    managers[-1].start_kernel(env={**os.environ, "JPY_SESSION_NAME": SESSION})
    return managers[-1]


def run_until(client: BlockingKernelClient, code: str, wanted: str) -> str:
    """Run `code` until it has printed `wanted`; return the request."""
    request = client.execute(code)
    while wanted not in client.get_iopub_msg(timeout=240)["content"].get("text", ""):
        pass
    return request


def qemu(machine: Record) -> int:
    run = run_record.load(machine)
    assert run is not None
    return run.pid


@pytest.fixture(scope="module")
def notebook(jupyter: None) -> Iterator[Frontend]:
    """A notebook on an ordinary local kernel, the magics loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        local = KernelManager(kernel_name="python3")
        local.start_kernel()
        with client_of(local) as client:
            frontend = Frontend(client)
            frontend.run("%load_ext mlvm")
            yield frontend
        local.shutdown_kernel()


def told_after(notebook: Frontend, code: str, cause: Callable[[], float]) -> tuple[float, Ran]:
    """Attach, run `code` until it prints, `cause` a death; return the seconds until the cell has failed, and how."""
    assert notebook.run(f"%mlvm attach {MACHINE}").reply["status"] == "ok"
    request = notebook.client.execute(code)
    while "now" not in notebook.client.get_iopub_msg(timeout=240)["content"].get("text", ""):
        pass
    caused = cause()
    while (one := notebook.client.get_iopub_msg(timeout=240))["msg_type"] != "error":
        pass
    took = time.monotonic() - caused
    return took, Ran(notebook.answer(request), [one])


def known_after(manager: KernelManager, caused: float) -> float:
    """Seconds from the cause of a death until Jupyter knows."""
    until(lambda: not manager.is_alive(), seconds=60)
    return time.monotonic() - caused


def test_a_suspension_in_the_middle_of_a_cell_loses_nothing(
    manager: KernelManager, machine: Record, provider: Provider, project: Project
) -> None:
    with client_of(manager) as client:
        request = run_until(client, LONG, "3\n")

        provider.suspend(machine, observer=SILENT)
        assert manager.is_alive()
        project.up(MACHINE, frozen=True, observer=SILENT)
        until(manager.is_alive)

        assert text(hear(client, request)).split() == [str(i) for i in range(4, 40)]


def test_a_stopped_qemu_loses_nothing(manager: KernelManager, machine: Record) -> None:
    with client_of(manager) as client:
        request = run_until(client, LONG, "3\n")

        os.kill(qemu(machine), signal.SIGSTOP)
        time.sleep(20)
        os.kill(qemu(machine), signal.SIGCONT)

        assert text(hear(client, request)).split() == [str(i) for i in range(4, 40)]


def test_ports_that_go_and_come_back_lose_nothing(
    manager: KernelManager, machine: Record, provider: Provider
) -> None:
    assert manager.provisioner is not None
    with client_of(manager) as client:
        request = run_until(client, LONG, "3\n")
        guest = provider.guest(machine)
        guest.hold_kernels()
        (known,) = [one for one in registry.in_machine(machine, guest) if one.code is None]
        ports = next(t["ports"] for t in guest.list_kernels() if t["kernel_id"] == known.kernel_id)
        provider.unforward(machine, _host_ports(manager))
        provider.forward(machine, ports, host_ports=_host_ports(manager))
        guest.hold_kernels(release=True)

        assert text(hear(client, request)).split() == [str(i) for i in range(4, 40)]


def _host_ports(manager: KernelManager) -> dict[str, int]:
    info = manager.get_connection_info()
    return {name: int(port) for name, port in info.items() if name.endswith("_port")}


def test_another_process_goes_on_in_the_middle_of_a_cell(
    manager: KernelManager, machine: Record, provider: Provider
) -> None:
    guest = provider.guest(machine)
    with client_of(manager) as client:
        run_until(client, LONG, "3\n")
    kernel = manager.provisioner._kernel  # type: ignore[union-attr]
    kernel.close()  # as when its process is killed, which closes its connections and ends its claim
    found = registry.orphan(machine, guest, session=SESSION, kernel_name=KERNEL)
    assert found is not None
    assert found.busy

    adopted = registry.adopt(machine, provider, guest, found.kernel_id)

    second = ready(dict(adopted.connection))
    shown = text(hear(second, second.execute("print('mine')")))
    numbers = [int(line) for line in shown.splitlines() if line.isdigit()]
    assert numbers == list(range(numbers[0], 40))
    assert shown.endswith("[mlvm] end of what was missed\nmine\n")
    second.stop_channels()
    adopted.kernel.discard()


def test_a_sudden_exit_is_known_at_once(manager: KernelManager, caplog: pytest.LogCaptureFixture) -> None:
    with client_of(manager) as client:
        execute(client, "1")
        run_until(client, "import os, time\nprint('now', flush=True)\ntime.sleep(0.5)\nos._exit(3)", "now")

        took = known_after(manager, time.monotonic() + 0.5)

    assert took < KNOWN
    assert f"the kernel in machine `{MACHINE}` ended with code 3" in caplog.text


def test_an_attached_notebook_is_told_of_a_sudden_exit(notebook: Frontend, machine: Record) -> None:
    code = "import os, time\nprint('now', flush=True)\ntime.sleep(0.5)\nos._exit(3)"

    took, died = told_after(notebook, code, lambda: time.monotonic() + 0.5)

    assert took < KNOWN
    assert died.reply["evalue"] == f"the kernel in machine `{MACHINE}` died under the cell (outcome unknown)"
    assert "ended with code 3" in "".join(died.reply["traceback"])


def test_a_guest_out_of_memory_says_so(
    manager: KernelManager, machine: Record, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(manager) as client:
        client.execute("kept = []\nwhile True: kept.append(b'x' * (32 << 20))")
        until(lambda: not manager.is_alive(), seconds=300)

    memory = machine.shape.memory >> 20
    assert f"was killed by signal 9, perhaps for want of memory: the machine has {memory} MiB" in caplog.text


def test_a_panic_is_known_at_once(
    manager: KernelManager, machine: Record, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    guest = provider.guest(machine)
    pid = qemu(machine)
    with client_of(manager):
        guest.run(
            ["sh", "-c", "(sleep 1; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &"],
            user="root",
            timeout=60,
        )
        until(lambda: not Path(f"/proc/{pid}").exists(), seconds=120)

        took = known_after(manager, time.monotonic())

    assert took < KNOWN
    assert f"machine `{MACHINE}` is stopped: its guest kernel panicked: sysrq triggered crash" in caplog.text


def test_a_killed_qemu_is_known_at_once(
    manager: KernelManager, machine: Record, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(manager):
        os.kill(qemu(machine), signal.SIGKILL)

        took = known_after(manager, time.monotonic())

    assert took < KNOWN
    assert f"machine `{MACHINE}` is stopped: its QEMU process" in caplog.text


def test_an_attached_notebook_is_told_of_a_killed_qemu(notebook: Frontend, machine: Record) -> None:
    def kill() -> float:
        os.kill(qemu(machine), signal.SIGKILL)
        return time.monotonic()

    took, died = told_after(notebook, "import time\nprint('now', flush=True)\ntime.sleep(600)", kill)

    assert took < KNOWN
    assert died.reply["evalue"] == f"the kernel in machine `{MACHINE}` died under the cell (outcome unknown)"
    assert f"machine `{MACHINE}` is stopped: its QEMU process" in "".join(died.reply["traceback"])
