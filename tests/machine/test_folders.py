"""Which folders a machine gets, decided without one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlvm.errors import MachineError
from mlvm.events import SILENT, Observer
from mlvm.machine import folders
from mlvm.machine.record import Record
from mlvm.machine.share.listed import LIST, Shared
from mlvm.paths import Home, shipped
from mlvm.spec.document import SharedFolder, Spec

from .test_argv import RECORD

SPEC = Spec(name="box")
BOX = shipped("boxes") / "python-3.11"


class Tape(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "my project"
    (made / "data").mkdir(parents=True)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home" / "me")
    monkeypatch.delenv(folders.VARIABLE, raising=False)
    return made


@pytest.fixture
def record(home: Home, project: Path) -> Record:
    made = replace(RECORD, home=home, project=str(project))
    made.folder.mkdir(parents=True)
    return made


def want(
    record: Record,
    spec: Spec = SPEC,
    here: Path | None = None,
    *,
    working: bool = False,
    kernel: bool = False,
    observer: Observer = SILENT,
) -> list[tuple[str, str, bool]]:
    found = folders.want(record, spec.share, here, working=working, kernel=kernel, observer=observer)
    return [(one.folder, one.at, one.write) for one in found]


def test_unasked_it_is_the_projects_folder(record: Record, project: Path) -> None:
    assert want(record) == [(str(project), "/work/my project", True)]


def test_a_shipped_box_is_never_shared(record: Record, project: Path) -> None:
    box = replace(record, project=str(BOX))

    assert want(box) == []
    assert want(box, here=project) == [(str(project), "/work/my project", True)]


def test_a_notebook_elsewhere_brings_its_folder(record: Record, project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    assert want(record, here=elsewhere, kernel=True) == [
        (str(project), "/work/my project", True),
        (str(elsewhere), "/work/elsewhere", True),
    ]


def test_a_notebook_below_the_project_needs_nothing_more(record: Record, project: Path) -> None:
    assert len(want(record, here=project / "data", kernel=True)) == 1


def test_two_folders_of_one_name_have_two_places(record: Record, tmp_path: Path) -> None:
    other = tmp_path / "other" / "my project"
    other.mkdir(parents=True)

    assert [place for _, place, _ in want(record, here=other, kernel=True)] == [
        "/work/my project",
        "/work/my project-2",
    ]


def test_what_a_working_machine_has_stays(record: Record, project: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    want(record, here=elsewhere, kernel=True)

    assert len(want(record, working=True)) == 2
    assert len(want(record, working=False)) == 1


def test_numbers_are_never_given_again(record: Record, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    want(record, here=elsewhere, kernel=True)
    want(record)
    (tmp_path / "third").mkdir()
    want(record, here=tmp_path / "third", kernel=True)

    assert [one.number for one in folders.of(record)] == [0, 2]


def test_the_same_folder_keeps_its_number(record: Record) -> None:
    want(record)
    want(record, replace(SPEC, share=()))
    want(record)

    assert json.loads((record.folder / LIST).read_text())["next"] >= 1
    assert len(folders.of(record)) == 1


def test_isolation_takes_everything_away(record: Record, project: Path) -> None:
    want(record, here=project, kernel=True)

    assert want(record, replace(SPEC, share=()), here=project, kernel=True, working=True) == []


@pytest.mark.parametrize(("value", "expected"), [("off", []), ("ro", [False]), ("rw", [True])])
def test_the_variable_holds_for_what_no_spec_asks(
    record: Record, monkeypatch: pytest.MonkeyPatch, value: str, expected: list[bool]
) -> None:
    monkeypatch.setenv(folders.VARIABLE, value)

    assert [write for _, _, write in want(record)] == expected


@pytest.mark.parametrize("above", ["home/me", "home", ""])
def test_a_home_is_not_shared_unasked_nor_what_it_lies_in(record: Record, tmp_path: Path, above: str) -> None:
    (tmp_path / "home" / "me").mkdir(parents=True)
    tape = Tape()

    assert len(want(record, here=tmp_path / above, kernel=True, observer=tape)) == 1
    assert "a home folder holds keys and passwords" in tape.notes[0]


def test_a_folder_of_the_spec_is_relative_to_it(record: Record, project: Path) -> None:
    spec = replace(SPEC, share=(SharedFolder(folder="./data", at="/data"),))

    assert want(record, spec) == [(str(project / "data"), "/data", False)]


def test_a_missing_folder_is_said_before_anything_starts(record: Record, project: Path) -> None:
    with pytest.raises(MachineError) as raised:
        want(record, replace(SPEC, share=(SharedFolder(folder="nowhere", at="/data"),)))

    assert raised.value.message == "the folder to share, `nowhere`, is not there"
    assert raised.value.details == f"looked for '{project}/nowhere'"
    assert raised.value.hint == "make it, or take it out of `share` in mlvm.yaml"


def test_a_link_out_of_the_project_is_not_shared(record: Record, project: Path, tmp_path: Path) -> None:
    (project / "way").symlink_to(tmp_path)

    with pytest.raises(MachineError, match="is outside of the project"):
        want(record, replace(SPEC, share=(SharedFolder(folder="way", at="/data"),)))


def test_places_in_the_guest(record: Record, project: Path, tmp_path: Path) -> None:
    want(record)
    (tmp_path / "my project 2").mkdir()

    assert folders.place_of(record, project) == "/work/my project"
    assert folders.place_of(record, project / "data" / "x") == "/work/my project/data/x"
    assert folders.place_of(record, tmp_path / "my project 2") is None
    assert folders.place_of(record, tmp_path) is None


def test_the_deepest_share_counts(record: Record, project: Path) -> None:
    both = (SharedFolder(folder=".", at="/all"), SharedFolder(folder="data", at="/data"))
    want(record, replace(SPEC, share=both))

    assert folders.place_of(record, project / "data" / "x") == "/data/x"


def test_what_is_shared_is_said(project: Path) -> None:
    shared = Shared(number=0, folder=str(project), at="/work/a\nb", write=True)

    assert folders.described([shared]) == [f"shares '{project}' as '/work/a\\nb', to read and write"]


def test_what_is_gone_is_said(project: Path) -> None:
    lines = folders.described([Shared(number=0, folder="/nowhere", at="/work/a", write=False)])

    assert lines == [
        "shares '/nowhere' as '/work/a', read-only; the folder is gone: programs in the machine see `Stale file handle`"
    ]
