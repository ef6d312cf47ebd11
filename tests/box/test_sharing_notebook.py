"""The notebook that shares a box: all of it but Vagrant, with the real command line, keys and server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NAME = "sharing-a-box.ipynb"

pytestmark = pytest.mark.jupyter


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each code cell wrote, by its id."""
    folder = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(variable, str(folder / variable.lower()))
        patch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        notebook = nbformat.read(FOLDER / NAME, as_version=4)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    return {
        cell.id: "".join(one.get("text", "") for one in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def test_published_and_signed(said: dict[str, str]) -> None:
    assert "\nsigned\n" in said["publish-code"]
    assert "libvirt-amd64.box" in said["publish-code"]


def test_other_bytes_need_another_version(said: dict[str, str]) -> None:
    assert "1.0.0 of `team/tiny` for libvirt is published, and is another file" in said["again-code"]
    assert "team/tiny 1.1.0 for libvirt" in said["again-code"]


def test_added_by_a_teammate(said: dict[str, str]) -> None:
    assert "checked: signed by anna@example.org" in said["add-code"]
    assert "root.qcow2" in said["add-code"]


def test_a_replay_is_refused(said: dict[str, str]) -> None:
    assert "error: the box's signature is not for this box" in said["replay-code"]


def test_an_old_catalog_is_refused(said: dict[str, str]) -> None:
    assert "error: the catalog of `team/tiny` has gone back: 1.1.0 was its newest" in said["back-code"]


def test_served_and_pinned(said: dict[str, str]) -> None:
    assert "checked: the server's certificate is the one you named" in said["serve-code"]


def test_another_certificate_is_refused(said: dict[str, str]) -> None:
    assert (
        "hint: somebody else may answer there: ask whoever serves it for the fingerprint"
        in said["wrong-code"]
    )


def test_nothing_is_left_running(said: dict[str, str]) -> None:
    assert said["end-code"] == "the server ended with 0\n"
