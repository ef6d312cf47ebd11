"""A notebook with a lock in it, run again in a real machine that is made for it and gone afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from mlvm.lock import carried
from mlvm.machine.record import names
from mlvm.paths import Home, shipped
from mlvm.project import Project
from mlvm.spec import ipynb

pytestmark = [pytest.mark.boot, pytest.mark.network]

STORED = [
    ("import math\nprint('pi', math.pi)\nprint(object())",
     [new_output("stream", name="stdout", text="pi 3.14159265\n<object object at 0x7f0123456789>\n")]),
    ("{}['missing']", [new_output("error", ename="KeyError", evalue="'missing'", traceback=[])]),
    ("open('beside.txt').read()",
     [new_output("execute_result", data={"text/plain": "'it lies beside'"}, execution_count=3)]),
    ("import platform\nplatform.node()",
     [new_output("execute_result", data={"text/plain": "'an old laptop'"}, execution_count=4)]),
]  # fmt: skip


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory, chain_home: Home) -> Iterator[Path]:
    """A notebook in a folder of its own, without a project, that brings the lock of `python-3.11`."""
    path = tmp_path_factory.mktemp("old") / "old.ipynb"
    cells = [
        new_code_cell(source, outputs=outputs, execution_count=number)
        for number, (source, outputs) in enumerate(STORED, start=1)
    ]
    nbformat.write(new_notebook(cells=cells), path)
    (path.parent / "beside.txt").write_text("it lies beside")
    project = Project(folder=shipped("boxes") / "python-3.11", home=chain_home)
    lock = project.lock()
    assert lock is not None
    ipynb.save(ipynb.with_metadata(ipynb.read(path), carried.pack(project.spec(), lock)))
    yield path
    assert not [name for name in names(chain_home) if name.endswith("-reproduce")]


def test_a_notebook_is_reproduced_but_for_what_is_different(notebook: Path, chain_home: Home) -> None:
    before = notebook.read_bytes()
    command = [
        sys.executable, "-m", "mlvm.cli", "reproduce", str(notebook),
        "--report", str(notebook.parent / "r.html"), "--output", str(notebook.parent / "new.ipynb"), "--json",
    ]  # fmt: skip

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)

    assert done.returncode == 1, done.stderr
    said = json.loads(done.stdout)
    assert [cell["verdict"] for cell in said["cells"]] == ["equal", "identical", "identical", "different"]
    assert said["cells"][0]["reasons"] == [
        "addresses",
        "last digits of numbers (relative difference up to 1.1e-09)",
    ]
    assert said["cells"][3]["outputs"][0]["now"] == "'python-3.11-reproduce'"
    assert (said["outcome"], said["box"]) == ("different", "the lock in the notebook")
    assert notebook.read_bytes() == before
    assert "cell 4: different" in (notebook.parent / "r.html").read_text()
    again = ipynb.read(notebook.parent / "new.ipynb")
    assert carried.find(again) is not None
    assert again.content["cells"][3]["outputs"][0]["data"]["text/plain"] == ["'python-3.11-reproduce'"]
