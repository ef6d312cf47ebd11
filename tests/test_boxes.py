"""Every shipped box keeps its promises: a fresh lock, the recorded digests, and a notebook that runs in the machine."""

from __future__ import annotations

import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import mlvm
from mlvm.events import SILENT
from mlvm.image.document import BUILDER
from mlvm.image.last_run import load as load_run
from mlvm.kernel import kernelspec
from mlvm.machine.table import provider_for
from mlvm.paths import Home, shipped
from mlvm.project import Project, shipped_boxes

ROOT = Path(mlvm.__file__).parent.parent


@pytest.mark.parametrize("box", shipped_boxes())
def test_the_lock_is_fresh_and_has_its_digests(box: str, home: Home) -> None:
    project = Project(folder=shipped("boxes") / box, home=home)

    lock = project.lock()

    assert project.stale_reasons() == []
    assert lock is not None
    assert lock.image is not None
    assert lock.image.builder == BUILDER


@pytest.mark.parametrize("box", shipped_boxes())
def test_a_recorded_run_can_be_read(box: str) -> None:
    """It may be of an older lock: the list and the page say so, and running a box again can take hours."""
    run = load_run(shipped("boxes") / box)

    assert run is None or run.sizes.keys() >= run.digests.keys()


def test_the_table_is_this_one() -> None:
    """If not: `python tools/boxes.py table`."""
    tool = runpy.run_path(str(ROOT / "tools" / "boxes.py"))

    assert tool["tables"](tool["recorded"](ROOT / "boxes")) in (ROOT / "docs" / "boxes.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/boxes.md"])
def test_every_box_has_its_line(page: str) -> None:
    text = (ROOT / page).read_text()

    assert [box for box in shipped_boxes() if f"| `{box}` | " not in text] == []


#: Those that only `make test-boxes` runs: gigabytes, or minutes of imports and compilation under emulation.
LIGHT = {"python-3.11", "sklearn"}
HEAVY = set(shipped_boxes()) - LIGHT


@pytest.mark.boot
@pytest.mark.network
@pytest.mark.parametrize(
    "box", [pytest.param(box, marks=[pytest.mark.heavy] * (box in HEAVY)) for box in shipped_boxes()]
)
def test_the_box_is_built_booted_and_verified(
    box: str, chain_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Build from the committed lock (the recorded digests are checked there), boot, run `verify.ipynb` inside."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    project = Project(folder=shipped("boxes") / box, home=chain_home)
    machine = f"verify-{box}"
    record = project.up(machine, frozen=True, observer=SILENT)
    kernelspec.install(project.spec(), project.folder, name=machine, machine=machine, prefix=tmp_path)
    notebook = nbformat.read(project.folder / "verify.ipynb", as_version=4)

    try:
        NotebookClient(
            notebook, kernel_name=machine, timeout=3600 if box in HEAVY else 600, startup_timeout=300
        ).execute()
    finally:
        provider_for(record).destroy(record, observer=SILENT)

    assert any(cell.get("execution_count") for cell in notebook.cells)
