"""The tutorial on attaching, executed: with a loopback machine, and in a real one that is then asked hard things."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import hearing
import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from notebook_frontend import LOOPBACK, PATIENCE, Frontend
from test_in_jupyter import folder as folder  # noqa: PLC0414  (a fixture)

from mlvm.events import SILENT
from mlvm.machine.record import load
from mlvm.machine.table import provider_for
from mlvm.paths import Home

TUTORIAL = Path(__file__).parent.parent.parent / "notebooks" / "attach.ipynb"
MACHINE = "attach-tutorial"


def execute(notebook: nbformat.NotebookNode, folder: Path) -> dict[str, list[nbformat.NotebookNode]]:
    """Execute a notebook in a folder; return the outputs by cell id."""
    NotebookClient(
        notebook, kernel_name="python3", timeout=3600, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def text_of(outputs: list[nbformat.NotebookNode]) -> str:
    return "".join(one.text for one in outputs if one.output_type == "stream")


def check(shown: dict[str, list[nbformat.NotebookNode]], notebook: nbformat.NotebookNode, guest: str) -> None:
    """Check what the tutorial says of itself, with the guest's host name."""
    assert text_of(shown["where"]).startswith(f"this cell ran on {guest} ")
    assert text_of(shown["local"]).startswith(f"and this one on {platform.node()} ")
    assert text_of(shown["home"]) == f"back on {platform.node()}\n"
    assert "Wall time" in text_of(shown["time"])
    assert any("image/png" in one.get("data", {}) for one in shown["plot"])
    assert text_of(shown["pulled"]) == "[1.5 3.  4.5]\n"
    view = "application/vnd.jupyter.widget-view+json"
    assert any(view in one.get("data", {}) for one in shown["widget"])
    states = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    assert {"IntSliderModel", "OutputModel", "ButtonModel"} <= {one["model_name"] for one in states}
    said = [one["state"].get("outputs") for one in states if one["model_name"] == "OutputModel"]
    assert f"{guest} says: 7 squared is 49" in json.dumps(said)


@pytest.mark.jupyter
def test_the_tutorial_on_loopback(folder: Path) -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    for cell in notebook.cells:
        if cell.id in {"up", "stop"}:
            cell.source = {"up": "%mlvm attach box", "stop": "%mlvm stop box"}[cell.id]
    opening = LOOPBACK.format(tests=str(Path(__file__).parent.parent), folder=str(folder))
    notebook.cells.insert(0, new_code_cell(opening))
    notebook.cells.append(new_code_cell("provider.close()"))

    shown = execute(notebook, folder)

    check(shown, notebook, platform.node())


@pytest.fixture(scope="module")
def vm_folder(chain_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, with Jupyter's folders below it; the tutorial's machine is destroyed at the end."""
    made = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(variable, str(made / variable.lower()))
        yield made
    if record := load(chain_home, MACHINE):
        provider_for(record).destroy(record, observer=SILENT)


@pytest.mark.boot
@pytest.mark.heavy
@pytest.mark.network
def test_the_tutorial_in_a_machine(vm_folder: Path) -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)

    shown = execute(notebook, vm_folder)

    check(shown, notebook, MACHINE)
    assert f"with Linux {platform.release()}" not in text_of(shown["where"])


@pytest.mark.boot
@pytest.mark.heavy
@pytest.mark.network
def test_a_real_machine_is_interrupted_completes_moves_and_dies(vm_folder: Path) -> None:
    """After the tutorial: its machine is there, stopped."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(vm_folder))
    client = manager.blocking_client()
    client.start_channels()
    try:
        hearing.ready(client, timeout=PATIENCE)
        notebook = Frontend(client)
        notebook.run("%load_ext mlvm")
        assert notebook.run(f"%mlvm attach {MACHINE}").reply["status"] == "ok"

        sleeping = client.execute("import time\nprint('go', flush=True)\ntime.sleep(3600)")
        while client.get_iopub_msg(timeout=PATIENCE)["msg_type"] != "stream":
            pass
        manager.interrupt_kernel()
        assert notebook.follow(sleeping).reply["ename"] == "KeyboardInterrupt"

        notebook.run("only_in_the_guest = 1")
        assert "only_in_the_guest" in notebook.ask(client.complete("only_in_t"))["matches"]

        made = notebook.run(
            "import ipywidgets as w\ns = w.IntSlider()\ns.observe(lambda c: print(c.new), 'value')\ns"
        )
        slider = made.contents("comm_open")[-1]["comm_id"]
        data = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
        heard = notebook.comm("comm_msg", {"comm_id": slider, "data": data})
        assert [one["content"]["text"] for one in heard if one["msg_type"] == "stream"] == ["7\n"]

        assert len(notebook.run("for _ in range(20): print('x' * 999_999)").text) == 20_000_000

        began = time.monotonic()
        died = notebook.run("import os; os.kill(os.getpid(), 9)")
        assert died.reply["evalue"].startswith(f"the kernel in machine `{MACHINE}` died ")
        assert time.monotonic() - began < 60
        assert notebook.run("1").reply["ename"] == "KernelError"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
