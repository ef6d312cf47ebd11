"""The magics in a notebook on an ordinary kernel, executed by nbclient: what a person sees in Jupyter."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from notebook_frontend import LOOPBACK

pytestmark = pytest.mark.jupyter


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (
        "JUPYTER_DATA_DIR",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
        "MLVM_HOME",
    ):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return tmp_path


def run(folder: Path, *cells: str, allow_errors: bool = False) -> list[nbformat.NotebookNode]:
    """Execute `cells` after the set-up; return their code cells with outputs."""
    opening = LOOPBACK.format(tests=str(Path(__file__).parent.parent), folder=str(folder))
    sources = [opening, "%load_ext mlvm", *cells, "provider.close()"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    NotebookClient(notebook, kernel_name="python3", timeout=600, allow_errors=allow_errors).execute()
    return list(notebook.cells[2:-1])


def test_outputs_in_place_and_in_order(folder: Path) -> None:
    (cell,) = run(
        folder,
        "%%mlvm box\n"
        "import sys\n"
        "from IPython.display import HTML\n"
        "print('one', flush=True)\n"
        "print('two', file=sys.stderr, flush=True)\n"
        "display(HTML('<b>three</b>'))\n"
        "print('four')\n"
        "'five'",
    )

    shown = [
        (o.output_type, o.get("name") or "", o.get("text") or o.data["text/plain"]) for o in cell.outputs
    ]
    assert shown == [
        ("stream", "stdout", "one\n"),
        ("stream", "stderr", "two\n"),
        ("display_data", "", "<IPython.core.display.HTML object>"),
        ("stream", "stdout", "four\n"),
        ("execute_result", "", "'five'"),
    ]
    assert cell.outputs[2].data["text/html"] == "<b>three</b>"


def test_an_update_changes_the_display_of_an_earlier_cell(folder: Path) -> None:
    first, _ = run(folder, "%%mlvm box\nh = display('old', display_id=True)", "%%mlvm box\nh.update('new')")

    assert [o.data["text/plain"] for o in first.outputs] == ["'new'"]


def test_clear_output(folder: Path) -> None:
    (cell,) = run(
        folder, "%%mlvm box\nfrom IPython.display import clear_output\nprint('a')\nclear_output()\nprint('b')"
    )

    assert [o.text for o in cell.outputs] == ["b\n"]


def test_a_figure(folder: Path) -> None:
    (cell,) = run(
        folder, "%%mlvm box\n%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    )

    assert any("image/png" in output.get("data", {}) for output in cell.outputs)


def test_an_error_is_the_guests(folder: Path) -> None:
    with pytest.raises(CellExecutionError) as failed:
        run(folder, "%%mlvm box\n{}['missing']")

    assert (failed.value.ename, failed.value.evalue) == ("KeyError", "'missing'")


def test_an_error_of_ours_is_plain(folder: Path) -> None:
    (cell,) = run(folder, "%%mlvm nowhere\n1", allow_errors=True)

    (output,) = cell.outputs
    assert output.ename == "MachineError"
    assert output.traceback == [
        "error: there is no machine `nowhere`",
        "  machines: `box`",
        "hint: %mlvm up BOX",
    ]


def test_progress_is_one_display(folder: Path) -> None:
    (cell,) = run(folder, "%mlvm stop box")

    (output,) = cell.outputs
    assert output.data["text/plain"] == "mlvm stop box"
    assert output.data["text/html"].startswith("<div")


def test_the_kernel_in_the_machine_ends_with_the_notebook(folder: Path) -> None:
    """Without `provider.close()`: the kernel's process must be gone when the notebook's kernel is."""
    opening = LOOPBACK.format(tests=str(Path(__file__).parent.parent), folder=str(folder))
    notebook = new_notebook(
        cells=[
            new_code_cell(source)
            for source in (opening, "%load_ext mlvm", "%%mlvm box\nimport os; print(os.getpid())")
        ]
    )
    NotebookClient(notebook, kernel_name="python3", timeout=600).execute()

    pid = int(notebook.cells[-1].outputs[0].text)
    status = Path(f"/proc/{pid}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_the_panel_has_a_picture_for_every_reader(folder: Path) -> None:
    """Widgets for who has them, HTML for a page, text for a console; closed, it leaves no thread."""
    alone, closed = run(
        folder,
        "%mlvm",
        "import threading, time\n"
        "_.close()\n"
        "deadline = time.monotonic() + 20\n"
        "while 'mlvm-watch' in [t.name for t in threading.enumerate()] and time.monotonic() < deadline:\n"
        "    time.sleep(0.05)\n"
        "print([t.name for t in threading.enumerate() if t.name.startswith('mlvm')])",
    )

    (output,) = alone.outputs
    assert set(output.data) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    assert output.data["text/plain"].splitlines()[1].startswith("box      stopped  000000000000")
    assert '<span class="mlvm-name">box</span>' in output.data["text/html"]
    assert closed.outputs[0].text == "[]\n"
