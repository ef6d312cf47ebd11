"""`mlvm box list`, `publish` and `add` as a stranger meets them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlvm.cli import run
from mlvm.image.last_run import LastRun
from mlvm.image.last_run import save as save_run
from mlvm.lock.text import load as load_lock
from mlvm.paths import Home, shipped
from mlvm.project import shipped_boxes
from tests.box.tiny import make_box, make_key, signers

MIB = 1 << 20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home) -> Path:
    """Each test stands in a folder with a box, and an empty home."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    make_box(here / "tiny-libvirt.box")
    return here


def publish(*options: str) -> int:
    return run(["box", "publish", "tiny-libvirt.box", "--catalog", "cat", "--box-version", "1.0.0", *options])


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_the_name_comes_from_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert publish("--json") == 0

    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["version"], found["provider"]) == ("mlvm/tiny", "1.0.0", "libvirt")
    assert (found["parts"], found["signed"], found["new"]) == (1, False, True)


def test_a_box_in_parts_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_box(folder / "tiny-libvirt.box", more=MIB)

    assert publish("--part-size", "1") == 0
    assert "Vagrant alone cannot get this one from a web host" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["0", "2048", "1.5", "x"])
def test_part_sizes_that_no_host_takes(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        publish("--part-size", size)
    assert f"`{size}` is no number from 1 to 2047" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--record"], ["--provider", "libvirt"]])
def test_what_is_for_projects_only(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(*option) == 7
    assert "is for a project; a file is what it is" in said(capsys)[0]


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run(["box", "publish", "./no.box", "--catalog", "cat", "--box-version", "1.0.0", "--name", "a/b"])
        == 7
    )
    assert said(capsys)[0] == "error: there is no box `no.box`"


def test_other_bytes_are_code_7(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    make_box(folder / "tiny-libvirt.box", seed=1)

    assert publish() == 7
    assert said(capsys)[-1] == "hint: what is published stays: publish this as `--box-version 1.0.1`"


def test_unpacked_without_vagrant(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    capsys.readouterr()

    assert run(["box", "add", "cat/mlvm/tiny.json", "--output", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["place"] == str(folder / "out")
    assert (folder / "out/root.qcow2").is_file()


def test_a_project_s_signers_are_asked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    (folder / "mlvm.yaml").write_text("name: x\n")
    signers(folder / "allowed_signers", ("anna", make_key(folder / "anna")))
    capsys.readouterr()

    assert run(["box", "add", "cat/mlvm/tiny.json", "--output", "out"]) == 7
    assert "error: the box is not signed" in said(capsys)
    assert not (folder / "out").exists()


def test_signed_later_and_added(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    key = make_key(folder / "anna")
    assert publish("--sign", str(key)) == 0
    (folder / "mlvm.yaml").write_text("name: x\n")
    signers(folder / "allowed_signers", ("anna", key))
    capsys.readouterr()

    assert run(["box", "add", "cat/mlvm/tiny.json", "--output", "out"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "checked: signed by anna"


def test_insecure_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish()
    key = make_key(folder / "anna")
    allowed = signers(folder / "team", ("anna", key))

    assert (
        run(["box", "add", "cat/mlvm/tiny.json", "-o", "out", "--signers", str(allowed), "--insecure"]) == 0
    )
    assert [line for line in said(capsys) if line.startswith("note: INSECURE, as you asked")]


def test_signers_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    publish()

    assert run(["box", "add", "cat/mlvm/tiny.json", "-o", "out", "--signers", "none"]) == 7
    assert said(capsys)[-2] == "error: there is no `none`"


def test_a_catalog_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["box", "add", "cat/mlvm/no.json"]) == 7
    assert said(capsys)[0] == "error: `cat/mlvm/no.json` cannot be read: No such file or directory"


def test_a_port_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    publish()

    assert run(["box", "serve", "cat", "--port", "99999"]) == 7
    assert "cannot be listened at" in said(capsys)[-2]


def test_the_shipped_boxes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["box", "list", "--json"]) == 0

    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == shipped_boxes()
    assert rows["torch-2.1"]["cuda"] == "12.1"
    assert rows["torch-2.1"]["packages"]["torch"] == "2.1.2"
    assert rows["sklearn"]["status"] == "not yet"
    assert rows["sklearn"]["verified"]["digests"].keys() >= {"system", "python"}


def test_the_list_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["box", "list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "name",
        "python",
        "CUDA",
        "packages",
        "downloads",
        "image",
        "status",
        "verified",
    ]
    assert [line.split()[0] for line in lines[1:-1]] == shipped_boxes()


def only_sklearn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ship this box alone, without what is recorded of its last run; return its folder."""
    box = folder / "boxes/sklearn"
    box.mkdir(parents=True)
    for name in ("mlvm.yaml", "mlvm.lock"):
        (box / name).write_bytes((shipped("boxes") / "sklearn" / name).read_bytes())
    monkeypatch.setattr(
        "mlvm.project.shipped", lambda kind: folder / "boxes" if kind == "boxes" else shipped(kind)
    )
    return box


def run_of(box: Path) -> LastRun:
    lock = load_lock(box / "mlvm.lock")
    assert lock.image is not None
    return LastRun(
        date="2026-11-24",
        builder=lock.image.builder,
        digests=lock.image.digests,
        sizes={"system": 200_000_000, "python": 345_600_000},
        downloads=1,
        seconds={"build": 9.5, "boot": 20.0, "verify": 31.2},
        host={},
    )


def test_what_is_recorded_of_a_last_run_is_listed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size stands for that of the image, which is not here."""
    box = only_sklearn(folder, monkeypatch)
    save_run(run_of(box), box)

    assert run(["box", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("545.6 MB  not yet  2026-11-24")
    assert run(["box", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["last_run"] == {
        "date": "2026-11-24",
        "of_this_lock": True,
        "image_bytes": 545_600_000,
        "seconds": {"build": 9.5, "boot": 20.0, "verify": 31.2},
    }


def test_a_run_of_another_lock_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = only_sklearn(folder, monkeypatch)
    save_run(replace(run_of(box), digests={}), box)

    assert run(["box", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("-      not yet  2026-11-24, of another lock")


def test_digests_without_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    only_sklearn(folder, monkeypatch)

    assert run(["box", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("-      not yet  recorded")


def test_a_box_that_cannot_be_read_is_shown(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "boxes/bad").mkdir(parents=True)
    (folder / "boxes/bad/mlvm.yaml").write_text("nonsense: 1\n")
    monkeypatch.setattr(
        "mlvm.project.shipped", lambda kind: folder / "boxes" if kind == "boxes" else shipped(kind)
    )

    assert run(["box", "list"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("bad: ")]
