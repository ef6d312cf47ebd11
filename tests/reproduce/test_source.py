"""What a notebook is run in, and what `%mlvm up` in it brings up."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlvm.errors import LockError, SpecError
from mlvm.lock import carried
from mlvm.notebook import own
from mlvm.paths import LOCK_NAME, SPEC_NAME, Home, shipped
from mlvm.project import Project
from mlvm.reproduce.source import choose
from mlvm.spec import ipynb

EMPTY = '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a notebook `x.ipynb` that brings nothing."""
    made = tmp_path / "work"
    made.mkdir()
    (made / "x.ipynb").write_text(EMPTY)
    monkeypatch.chdir(made)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    return made


def put_lock(path: Path, home: Home, box: str = "python-3.11") -> None:
    """Put the lock of a shipped box into a notebook."""
    project = Project(folder=shipped("boxes") / box, home=home)
    lock = project.lock()
    assert lock is not None
    ipynb.save(ipynb.with_metadata(ipynb.read(path), carried.pack(project.spec(), lock)))


def put_project(folder: Path, box: str = "python-3.11") -> None:
    """Make a folder a project: a copy of a shipped box."""
    for name in (SPEC_NAME, LOCK_NAME):
        shutil.copy(shipped("boxes") / box / name, folder / name)


def test_the_box_that_is_named(folder: Path, home: Home) -> None:
    found = choose(ipynb.read(folder / "x.ipynb"), "sklearn", home=home, cwd=folder)

    assert (found.project.folder.name, found.where, found.frozen) == ("sklearn", "box `sklearn`", False)


def test_its_own_lock(folder: Path, home: Home) -> None:
    put_lock(folder / "x.ipynb", home)

    found = choose(ipynb.read(folder / "x.ipynb"), None, home=home, cwd=folder)

    assert found.project.folder.parent == home.carried
    assert (found.where, found.frozen, found.notes) == ("the lock in the notebook", True, ())


def test_the_project_beside_it_wherever_one_stands(folder: Path, home: Home, tmp_path: Path) -> None:
    put_project(folder)

    found = choose(ipynb.read(folder / "x.ipynb"), None, home=home, cwd=tmp_path)

    assert (found.project.folder, found.frozen) == (folder, False)


def test_its_own_lock_comes_first_and_what_differs_is_said(folder: Path, home: Home) -> None:
    put_lock(folder / "x.ipynb", home)
    put_project(folder, "sklearn")

    found = choose(ipynb.read(folder / "x.ipynb"), None, home=home, cwd=folder)

    assert found.where == "the lock in the notebook"
    assert found.notes[0] == "the lock in the notebook and that of `work` differ:"
    assert found.notes[1] == "name: python-3.11 -> sklearn"


def test_nothing_says(folder: Path, home: Home) -> None:
    with pytest.raises(SpecError) as raised:
        choose(ipynb.read(folder / "x.ipynb"), None, home=home, cwd=folder)

    assert raised.value.hint == f"mlvm capture {folder / 'x.ipynb'}, or name a box with --box"


def shell(path: Path | None = None) -> SimpleNamespace:
    return SimpleNamespace(user_ns={"__vsc_ipynb_file__": str(path)} if path else {})


def test_a_cell_brings_up_the_lock_of_its_notebook(folder: Path, home: Home) -> None:
    put_lock(folder / "x.ipynb", home)

    project, brought, notes = own.project_for(None, None, shell(folder / "x.ipynb"))

    assert (project.folder.parent, brought) == (home.carried, True)
    assert notes == [f"there is no project here: the lock in `{folder / 'x.ipynb'}` is used"]


def test_a_jupyter_server_says_which_notebook_it_is(
    folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_lock(folder / "x.ipynb", home)
    monkeypatch.setenv("JPY_SESSION_NAME", str(folder / "x.ipynb"))

    assert own.project_for(None, None, shell())[1]


def test_a_frontend_that_says_nothing(folder: Path, home: Home) -> None:
    put_lock(folder / "x.ipynb", home)

    with pytest.raises(SpecError, match=r"no mlvm\.yaml in"):
        own.project_for(None, None, shell())

    assert own.project_for(None, "x.ipynb", shell())[1]


def test_a_cell_says_when_its_notebook_was_made_with_another_lock(folder: Path, home: Home) -> None:
    put_lock(folder / "x.ipynb", home)
    put_project(folder, "sklearn")

    project, brought, notes = own.project_for(None, None, shell(folder / "x.ipynb"))

    assert (project.folder, brought) == (folder, False)
    assert notes[:2] == [
        "this notebook was made with another lock than that of `sklearn`:",
        "name: python-3.11 -> sklearn",
    ]
    assert "`%mlvm up --from x.ipynb`" in notes[-1]


def test_the_same_lock_is_not_worth_a_word(folder: Path, home: Home) -> None:
    put_lock(folder / "x.ipynb", home)
    put_project(folder)

    assert own.project_for(None, None, shell(folder / "x.ipynb"))[2] == []


def test_a_damaged_lock_beside_a_project_is_said(folder: Path, home: Home) -> None:
    put_project(folder)
    ipynb.save(ipynb.with_metadata(ipynb.read(folder / "x.ipynb"), {"version": 1, "lock": "#"}))

    notes = own.project_for(None, None, shell(folder / "x.ipynb"))[2]

    assert notes == ["the lock in `x.ipynb` is not compared: the lock in notebook `x.ipynb` is damaged"]


def test_two_boxes_are_one_too_many(folder: Path, home: Home) -> None:
    with pytest.raises(LockError, match="name two boxes"):
        own.project_for("sklearn", "x.ipynb", shell())


def test_from_a_notebook_without_a_lock(folder: Path, home: Home) -> None:
    with pytest.raises(LockError) as raised:
        own.project_for(None, "x.ipynb", shell())

    assert raised.value.hint == "mlvm lock BOX --into x.ipynb"
