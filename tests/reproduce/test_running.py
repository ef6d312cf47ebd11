"""Notebooks really run, in a kernel of a machine that is a folder of this host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import LoopbackProvider, loopback_record
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from mlvm.errors import KernelError
from mlvm.events import SILENT
from mlvm.paths import Home
from mlvm.reproduce.outputs import tidy
from mlvm.reproduce.running import Run, run

pytestmark = pytest.mark.jupyter


def ran(folder: Path, *sources: str, timeout: float = 120) -> Run:
    """Run a notebook with these cells, and a text before them."""
    cells = [new_markdown_cell("# Title"), *map(new_code_cell, sources)]
    content: dict[str, Any] = dict(new_notebook(cells=cells))
    return run(content, project=folder, machine="box", cwd=folder, timeout=timeout, observer=SILENT)


@pytest.mark.usefixtures("provider")
def test_an_error_does_not_end_the_run(tmp_path: Path) -> None:
    found = ran(tmp_path, "print('a')", "1 / 0", "'b'")

    outputs = [[one.value for one in tidy(cell["outputs"])] for cell in found.content["cells"][1:]]
    assert outputs == [["a\n"], ["ZeroDivisionError: division by zero"], ["'b'"]]
    assert (sorted(found.ran), found.stopped) == ([0, 1, 2], "")


@pytest.mark.usefixtures("provider")
def test_a_cell_that_takes_too_long_ends_it(tmp_path: Path) -> None:
    found = ran(tmp_path, "1", "import time; time.sleep(600)", "3", timeout=3)

    assert (sorted(found.ran), found.stopped) == ([0], "the cell did not end in 3 s")


@pytest.mark.usefixtures("provider")
def test_a_kernel_that_dies_ends_it(tmp_path: Path) -> None:
    found = ran(tmp_path, "1", "import os; os._exit(3)", "3")

    assert (sorted(found.ran), found.stopped) == ([0], "the kernel in machine `box` ended with code 3")


def test_a_kernel_that_does_not_start_says_why(
    tmp_path: Path, provider: LoopbackProvider, home: Home
) -> None:
    provider.start(loopback_record(home, "box"), None, observer=SILENT).kernel_command = ["false"]

    with pytest.raises(KernelError, match="ended with code 1, before it answered"):
        ran(tmp_path, "1")
