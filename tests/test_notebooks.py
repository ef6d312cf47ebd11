"""The notebooks that are shown to people: clean in the repository, and every one of them runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mlvm.machine.record import load, names
from mlvm.paths import Home

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
#: Those that run in a machine's kernel or need none, with what runs them.
IN_A_MACHINE = {
    "quickstart.ipynb": Path(__file__).parent / "kernel" / "test_in_vm.py",
    "survives.ipynb": Path(__file__).parent / "kernel" / "test_server.py",
    "sharing-a-box.ipynb": Path(__file__).parent / "box" / "test_sharing_notebook.py",
    "attach.ipynb": Path(__file__).parent / "notebook" / "test_tutorial.py",
}
ORDINARY = [path for path in NOTEBOOKS if path.name not in IN_A_MACHINE]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_valid_and_has_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)

    nbformat.validate(notebook)
    assert [c.id for c in notebook.cells if c.cell_type == "code" and (c.outputs or c.execution_count)] == []


@pytest.mark.parametrize("name", IN_A_MACHINE)
def test_a_notebook_for_a_machine_is_run_where_it_is_said(name: str) -> None:
    assert f'"{name}"' in IN_A_MACHINE[name].read_text()


@pytest.mark.boot
@pytest.mark.network
@pytest.mark.heavy
@pytest.mark.parametrize("path", ORDINARY, ids=lambda path: path.name)
def test_a_notebook_runs_on_an_ordinary_kernel(
    path: Path, chain_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an error, and without leaving a machine behind."""
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    before = names(chain_home)
    notebook = nbformat.read(path, as_version=4)

    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(FOLDER)}}).execute()

    said = {cell.id: _text(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert names(chain_home) == before
    if path.name == "tour.ipynb":
        assert said["run-code"].startswith("on tour with Linux ")
        assert os.uname().release not in said["run-code"]
        assert "tour     running" in said["panel-code"]
        assert said["accident-code"] == "the note is gone, and the answer is None\n"
        assert said["restored-code"] == "the answer is 42 and the note says precious\n"
        assert "tour     stopped" in said["status-code"]
        assert load(chain_home, "tour") is None
    if path.name == "reproducing.ipynb":
        check_reproducing(said)


def check_reproducing(said: dict[str, str]) -> None:
    """What the tutorial on reproducing says came out is what came out."""
    assert "not pinned: python 3.6: no box has it" in said["capture-code"]
    assert "the lock of `python-3.11` is in it, 24." in said["lock-code"]
    assert "exit code 1\n" in said["run-code"]
    assert said["report-code"].splitlines() == [
        "1 equal ['addresses']",
        "2 equal ['times']",
        "3 equal ['last digits of numbers (relative difference up to 2.3e-12)']",
        "4 different stdout: line 1: `annes-laptop` is now `python-3.11-reproduce`",
        "True",
    ]
    assert said["tag-code"].endswith("exit code 0\n")


def _text(cell: nbformat.NotebookNode) -> str:
    """Return what a cell shows, as text."""
    parts = [one.get("text") or one.get("data", {}).get("text/plain", "") for one in cell.outputs]
    return "".join(parts)
