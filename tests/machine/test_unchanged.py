"""What is known of a project without reading it: nothing as soon as anything has changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlvm.errors import MachineError
from mlvm.machine import unchanged
from mlvm.machine.record import Record
from mlvm.paths import Home
from mlvm.spec.document import SharedFolder

from .test_argv import RECORD

SHARE = (SharedFolder(folder="data", at="/data"),)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "mlvm.yaml").write_text("name: box\n")
    (folder / "mlvm.lock").write_text("a lock\n")
    return folder


@pytest.fixture
def record(home: Home, project: Path) -> Record:
    """What was noted of the project."""
    noted = replace(RECORD, home=home, project=str(project))
    unchanged.note(project, noted, SHARE)
    return noted


def test_what_was_noted_is_known(home: Home, project: Path, record: Record) -> None:
    known = unchanged.recall(project, "another", home=home)

    assert known is not None
    told = known.record
    assert replace(told, mac=record.mac, created=record.created) == replace(record, name="another")
    assert told.mac != record.mac
    assert known.share == SHARE


def test_without_a_name_it_is_the_specs(home: Home, project: Path, record: Record) -> None:
    known = unchanged.recall(project, None, home=home)

    assert known is not None
    assert known.record.name == record.name


@pytest.mark.parametrize("name", ["mlvm.yaml", "mlvm.lock"])
def test_a_changed_file(home: Home, project: Path, record: Record, name: str) -> None:
    (project / name).write_text("changed\n")

    assert unchanged.recall(project, None, home=home) is None


@pytest.mark.parametrize("name", ["mlvm.yaml", "mlvm.lock"])
def test_a_missing_file(home: Home, project: Path, record: Record, name: str) -> None:
    (project / name).unlink()

    assert unchanged.recall(project, None, home=home) is None


def test_bytes_moved_from_one_file_to_the_other(home: Home, project: Path, record: Record) -> None:
    (project / "mlvm.yaml").write_text("name: box\na lock\n")
    (project / "mlvm.lock").write_text("")

    assert unchanged.recall(project, None, home=home) is None


def test_another_mlvm(
    home: Home, project: Path, record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(unchanged, "_own_code", lambda: iter([b"other code"]))

    assert unchanged.recall(project, None, home=home) is None


def test_its_own_code_is_what_is_looked_at() -> None:
    seen = b"\n".join(unchanged._own_code())

    assert b"/mlvm/machine/unchanged.py " in seen
    assert b"/mlvm/agent/serve.py " in seen
    assert b"__pycache__" not in seen


@pytest.mark.parametrize("line", ["template: minimal\n", "requirements: requirements.txt\n"])
def test_a_spec_that_leads_to_other_files_is_always_read(home: Home, project: Path, line: str) -> None:
    (project / "mlvm.yaml").write_text("name: box\n" + line)

    unchanged.note(project, replace(RECORD, home=home), None)

    assert unchanged.recall(project, None, home=home) is None
    assert not (home.cache / "unchanged").exists()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"stamp": 1}'])
def test_a_damaged_note_is_none(home: Home, project: Path, record: Record, damage: str) -> None:
    (path,) = (home.cache / "unchanged").iterdir()
    path.write_text(damage)

    assert unchanged.recall(project, None, home=home) is None


def test_a_note_whose_record_lacks_something(home: Home, project: Path, record: Record) -> None:
    (path,) = (home.cache / "unchanged").iterdir()
    document = json.loads(path.read_text())
    del document["record"]["shape"]
    path.write_text(json.dumps(document))

    assert unchanged.recall(project, None, home=home) is None


def test_a_name_that_cannot_be_one(home: Home, project: Path, record: Record) -> None:
    with pytest.raises(MachineError, match="cannot be a machine's name"):
        unchanged.recall(project, "../x", home=home)


def test_it_is_its_owners_alone(home: Home, project: Path, record: Record) -> None:
    """It holds the spec's `env`."""
    (path,) = (home.cache / "unchanged").iterdir()

    assert path.stat().st_mode & 0o077 == 0
