"""The command line as a stranger meets it: exit codes, the three parts of an error, where output goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlvm.cli import run
from mlvm.paths import Home

GOOD = 'name: small\ndebian: bookworm\npython: "3.11"\n'


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home) -> Path:
    """Each test stands in an empty folder, with an empty home."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_no_spec_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["lock", "--check"])

    said = capsys.readouterr()
    assert code == 3
    assert said.out == ""
    assert said.err.startswith("error: no mlvm.yaml in `")
    assert "hint: mlvm init, or name a box: python-3.11, sklearn" in said.err


def test_unknown_box(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["build", "nosuch"])

    said = capsys.readouterr()
    assert code == 3
    assert said.err.splitlines()[0] == "error: there is no box called `nosuch`"
    assert said.err.splitlines()[-1] == "hint: for a folder write it as a path: `./nosuch`"


def test_wrong_usage_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(["up", "--nosuch"])

    assert left.value.code == 2
    assert "error: unrecognized arguments: --nosuch\nhint: mlvm --help" in capsys.readouterr().err


def test_a_bad_spec_shows_every_complaint(
    in_an_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_an_empty_folder / "mlvm.yaml").write_text("name: small\npython: 3.10\npackges: []\n")

    code = run(["lock", "--check"])

    said = capsys.readouterr().err
    assert code == 3
    assert "mlvm.yaml:2:9" in said
    assert "mlvm.yaml:3:1" in said


def test_check_without_a_lock(in_an_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_an_empty_folder / "mlvm.yaml").write_text(GOOD)

    code = run(["lock", "--check"])

    assert code == 1
    assert capsys.readouterr().out == "there is no mlvm.lock\n"


def test_frozen_never_resolves(in_an_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_an_empty_folder / "mlvm.yaml").write_text(GOOD)

    code = run(["up", "--frozen"])

    assert code == 4
    assert "there is no mlvm.lock\nhint: mlvm lock\n" in capsys.readouterr().err


def test_init_writes_a_spec_once(in_an_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(["init"])
    written = (in_an_empty_folder / "mlvm.yaml").read_text()
    second = run(["init"])

    assert (first, second) == (0, 3)
    assert (in_an_empty_folder / "mlvm.yaml").read_text() == written
    assert "hint: mlvm init --force, or edit it" in capsys.readouterr().err


def test_status_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status"]) == 0
    assert capsys.readouterr().out == "no machines; next: mlvm up\n"
    assert run(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_broken_record_is_shown_not_raised(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.machine("odd").mkdir(parents=True)
    (home.machine("odd") / "machine.json").write_text("{")

    code = run(["status"])

    out = capsys.readouterr().out
    assert code == 0
    assert out.splitlines()[1].split()[:2] == ["odd", "broken"]
    assert "odd: the record of machine `odd` cannot be read" in out


def test_run_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "some"]) == 9
    assert capsys.readouterr().err == "error: what should run?\nhint: mlvm run [NAME] -- python3 --version\n"


def test_which_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["stop"]) == 9
    assert capsys.readouterr().err.splitlines() == [
        "error: which machine?",
        "  there are no machines yet",
        "hint: add its name: `mlvm status` shows all",
    ]


def test_show_spec(in_an_empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_an_empty_folder / "mlvm.yaml").write_text(GOOD + "env: {A: b}\n")

    assert run(["show", "spec"]) == 0

    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["env"], shown["machine"]["cpus"]) == ("small", {"A": "b"}, 2)


def test_diff_of_a_missing_lock(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["diff", "a.lock", "b.lock"]) == 4
    assert capsys.readouterr().err.startswith("error: there is no `a.lock`")
