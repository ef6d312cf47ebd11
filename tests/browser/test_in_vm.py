"""The same in a real machine: a kernel from the launcher, a slider that moves guest code, a server that is killed."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from browser.conftest import open_page
from browser.lab import PATIENCE, Lab
from browser.server import LabServer
from browser.test_kernels import SLIDER
from browser.test_panel import button, panel_of
from mlvm.events import SILENT
from mlvm.kernel import kernelspec
from mlvm.machine.record import Record
from mlvm.machine.table import provider_for
from mlvm.paths import Home
from mlvm.project import Project

pytestmark = [pytest.mark.browser, pytest.mark.boot, pytest.mark.network]

SPEC = """\
name: widgets
debian: bookworm
python: "3.11"
packages:
  - ipywidgets
machine:
  cpus: 2
  memory: 1 GiB
"""


@pytest.fixture(scope="module")
def machine(chain_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    """A machine whose Python has ipywidgets, and which has read both from its disk: JupyterLab waits only 60 s."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "mlvm.yaml").write_text(SPEC)
    record = Project(folder=folder, home=chain_home).up(observer=SILENT)
    guest = provider_for(record).guest(record)
    guest.run(["python3", "-c", "import ipykernel.kernelapp, ipywidgets"], timeout=600)
    yield record
    provider_for(record).destroy(record, observer=SILENT)


@pytest.fixture(scope="module")
def vm_server(machine: Record, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """JupyterLab with the kernel of that machine."""
    made = LabServer(tmp_path_factory.mktemp("lab"), loopback=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", made.env["JUPYTER_DATA_DIR"])
        project = Path(machine.project)
        kernelspec.install(Project(folder=project, home=machine.home).spec(), project)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def lab(browser: Browser, vm_server: LabServer, request: pytest.FixtureRequest) -> Iterator[Lab]:
    yield from open_page(browser, vm_server, request)


KERNEL = "mlvm-widgets"
WHERE = "import os; print('on', os.uname().nodename)"


def test_a_slider_moves_guest_code(lab: Lab) -> None:
    notebook = lab.open_notebook("slider.ipynb", SLIDER, kernel=KERNEL)
    outputs = notebook.run(0)
    slider = outputs.locator(".widget-slider")
    expect(slider).to_be_visible(timeout=PATIENCE)

    notebook.move_slider(slider, 2)

    notebook.expect_output(0, "5 squared is 25 on widgets")
    lab.screenshot("slider-in-vm", outputs)


def test_interrupt_and_restart(lab: Lab) -> None:
    notebook = lab.open_notebook(
        "interrupt.ipynb", "import time\nprint('go', flush=True)\ntime.sleep(300)", WHERE, kernel=KERNEL
    )
    notebook.run(0, wait=False)
    notebook.expect_output(0, "go")

    notebook.interrupt()
    notebook.expect_output(0, "KeyboardInterrupt")
    notebook.restart()

    notebook.run(1)
    notebook.expect_output(1, "on widgets")


def test_after_the_server_was_killed(lab: Lab, vm_server: LabServer) -> None:
    """Another server on the same notebook: the machine is there, and a kernel in it."""
    notebook = lab.open_notebook("killed.ipynb", WHERE, kernel=KERNEL)
    notebook.run(0)
    notebook.save()

    vm_server.stop(signal.SIGKILL)
    vm_server.start()

    again = lab.open_notebook("killed.ipynb")
    again.run(0)
    again.expect_output(0, "on widgets")


def test_the_panel_shows_the_machine_at_work(lab: Lab) -> None:
    """Real figures: the guest's memory, and a snapshot whose stages are shown."""
    notebook = lab.open_notebook("panel.ipynb", "%mlvm")
    notebook.run(0)
    panel = panel_of(notebook)
    expect(panel).to_contain_text("1 running", timeout=PATIENCE)
    expect(panel.locator(".mlvm-plots")).to_contain_text(re.compile(r"memory\s*[\d.]+ MB"), timeout=PATIENCE)
    expect(panel.locator("polyline").first).to_be_attached(timeout=PATIENCE)

    snapshot = button(panel, "Snapshot")
    snapshot.click(timeout=PATIENCE)
    expect(snapshot).to_be_disabled(timeout=PATIENCE)
    expect(snapshot).to_be_enabled(timeout=PATIENCE)

    lab.screenshot("panel-in-vm")
