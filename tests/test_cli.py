"""The command line as a stranger meets it: exit codes, the three parts of an error, where output goes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from mlvm.cli import run
from mlvm.lock import compatibility
from mlvm.machine import pci
from mlvm.machine.record import Record, save
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
    assert "hint: mlvm init, or name a box: jax, jax-cuda13, old-py39, python-3.11, sklearn, " in said.err


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


def test_status_shows_what_a_machine_uses(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Record(name="one", provider="qemu", image_id="0" * 64, project="/nowhere", home=home)
    machine.folder.mkdir(parents=True)
    save(machine)
    (machine.folder / "overlay.img").write_bytes(b"x" * 200_000)

    run(["status"])
    shown = capsys.readouterr().out.splitlines()
    run(["status", "--json"])
    said = json.loads(capsys.readouterr().out)

    assert "cpu time  RAM used  disk used" in shown[0]
    assert shown[1].split()[:2] == ["one", "stopped"]
    assert said[0]["usage"]["disk"] >= 200_000
    assert said[0]["usage"]["memory_private"] is None


def test_the_table_of_compatibility_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["compat", "torch"])

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[0].split() == ["framework", "version", "extra", "python", "cuda", "cudnn", "driver", "gpu"]
    assert "torch 2.1.2 - 3.8 to 3.11 12.1 ==8.9.2.26 525 5.0" in [" ".join(line.split()) for line in lines]
    assert lines[-1].startswith("table of 20")


def test_the_table_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    run(["compat", "jax", "--json"])

    rows = json.loads(capsys.readouterr().out)
    assert {row["extra"] for row in rows} == {"cuda12", "cuda13"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["keras"], "error: `keras` is not in the table of 20"),
        (["--use", "nowhere.json"], "error: `nowhere.json` cannot be read: No such file or directory"),
        (["--sha256", "0"], "error: `--sha256` goes with `--use FILE`"),
    ],
)
def test_a_table_that_cannot_be_shown(
    words: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["compat", *words])

    assert code == 4
    assert capsys.readouterr().err.startswith(error)


def test_a_newer_table_is_taken(
    in_an_empty_folder: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = json.loads(compatibility.SHIPPED.read_text()) | {"date": "2099-12-31"}
    (in_an_empty_folder / "new.json").write_text(json.dumps(newer))

    code = run(["compat", "torch", "--use", "new.json"])

    assert code == 0
    assert f"the table of 2099-12-31 is now in {home.data / 'compatibility.json'}" in capsys.readouterr().out


def test_a_spec_that_cannot_work_is_refused_at_once(
    in_an_empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The guard of the tests fails whatever would start a program or reach the network."""
    (in_an_empty_folder / "mlvm.yaml").write_text(
        'name: old\npackages: ["torch==2.1.*"]\ncuda: {version: "12.4"}\n'
    )
    began = time.process_time()

    code = run(["up", "--progress", "none"])

    assert code == 4
    assert capsys.readouterr().err == (
        "error: torch 2.1 does not work with CUDA 12.4\nhint: cuda 12.1, or torch 2.5\n"
    )
    assert time.process_time() - began < 2


def test_a_machine_whose_gpus_are_not_here_is_refused_at_once(
    in_an_empty_folder: Path, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pci, "read_devices", lambda root: {})
    (in_an_empty_folder / "mlvm.yaml").write_text("name: fast\nmachine: {gpu: 1}\n")

    code = run(["up", "--progress", "none"])

    assert code == 9
    assert capsys.readouterr().err.splitlines()[0] == (
        "error: the machine wants 1 GPU of this host, and none can be given"
    )
    assert not home.cache.exists()


def test_a_lock_goes_into_a_notebook_and_nothing_else_changes(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("x.ipynb")
    before = '{\n "cells": [],\n "metadata": {},\n "nbformat": 4,\n "nbformat_minor": 5\n}\n'
    path.write_text(before)

    code = run(["lock", "python-3.11", "--into", "x.ipynb", "--progress", "none"])

    assert code == 0
    assert capsys.readouterr().out.startswith("x.ipynb: the lock of `python-3.11` is in it, 24.")
    content = json.loads(path.read_text())
    assert content["metadata"].pop("mlvm")["name"] == "python-3.11"
    assert content == json.loads(before)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("up", "--from", "x.ipynb"), "there is no lock in notebook `x.ipynb`"),
        (("up", "sklearn", "--from", "x.ipynb"), "`sklearn` and `--from` name two boxes"),
        (("reproduce", "x.ipynb"), "nothing says what `x.ipynb` ran in"),
        (("reproduce", "x.ipynb", "--report", "r.pdf"), "`r.pdf`: a report is a `.html` or a `.json` file"),
        (("reproduce", "y.ipynb"), "notebook `y.ipynb` cannot be read: No such file or directory"),
        (("lock", "sklearn", "--into", "y.ipynb"), "notebook `y.ipynb` cannot be read"),
        (("capture",), "name either a file or an interpreter to capture"),
    ],
)
def test_what_notebooks_do_not_say(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')

    code = run([*words, "--progress", "none"])

    assert code != 0
    assert capsys.readouterr().err.startswith(f"error: {said}")
