"""Publishing: whole or not at all, what is there stays, and what a host gives is what was published."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mlvm import files
from mlvm.box import catalog as catalogs
from mlvm.box.catalog import Catalog
from mlvm.box.publish import Published, provider_of, publish
from mlvm.errors import BoxError, DigestError, StoreError
from tests.box.tiny import make_box

MIB = 1 << 20


@pytest.fixture
def box(tmp_path: Path) -> Path:
    make_box(tmp_path / "one.box")
    return tmp_path / "one.box"


def put(box: Path, version: str = "1.0.0", **options: object) -> Published:
    return publish(box, catalog=box.parent / "cat", name="team/tiny", version=version, **options)  # type: ignore[arg-type]


def read(box: Path) -> Catalog:
    return catalogs.loads((box.parent / "cat/team/tiny.json").read_bytes(), "x")


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): files.sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".mlvm-hold"
    }


def test_the_files_of_a_catalog(box: Path) -> None:
    put(box)

    there = tree(box.parent / "cat")
    assert set(there) == {"team/tiny.json", "team/tiny/1.0.0/libvirt-amd64.box"}
    assert there["team/tiny/1.0.0/libvirt-amd64.box"] == files.sha256_of(box)


def test_a_web_server_may_read_them(box: Path) -> None:
    put(box)

    modes = {path.stat().st_mode & 0o777 for path in (box.parent / "cat/team").rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_publishing_again_changes_nothing(box: Path) -> None:
    first = put(box)
    before = {path: path.stat().st_mtime_ns for path in (box.parent / "cat/team").rglob("*")}
    again = put(box)

    assert (first.new, again.new) == (True, False)
    assert {path: path.stat().st_mtime_ns for path in (box.parent / "cat/team").rglob("*")} == before


def test_other_bytes_under_a_version_are_refused(box: Path) -> None:
    put(box)
    before = tree(box.parent / "cat")
    make_box(box, seed=1)

    with pytest.raises(BoxError) as refused:
        put(box)

    assert refused.value.message == "1.0.0 of `team/tiny` for libvirt is published, and is another file"
    assert refused.value.hint == "what is published stays: publish this as `--box-version 1.0.1`"
    assert tree(box.parent / "cat") == before


def test_another_spelling_is_the_same_version(box: Path) -> None:
    put(box, "1.0")

    assert put(box, "1.0.0").new is False


def test_versions_stay(box: Path) -> None:
    put(box)
    make_box(box, seed=1)
    put(box, "1.1.0")

    assert [entry.version for entry in read(box).entries] == ["1.0.0", "1.1.0"]


def test_a_large_box_is_cut(box: Path) -> None:
    sha256 = make_box(box, more=2 * MIB + 5)
    put(box, part_size=MIB)

    (entry,) = read(box).entries
    whole = b"".join((box.parent / "cat/team" / part.path).read_bytes() for part in entry.parts)
    assert [part.size for part in entry.parts][:-1] == [MIB, MIB]
    assert hashlib.sha256(whole).hexdigest() == sha256 == entry.sha256
    assert entry.url == ""


def test_a_box_of_exactly_one_part_is_whole(box: Path) -> None:
    put(box, part_size=box.stat().st_size)

    assert len(read(box).entries[0].parts) == 1


def test_the_address_is_kept(box: Path) -> None:
    put(box, url="https://boxes.example/all/")
    make_box(box, seed=1)
    put(box, "1.1.0")

    assert [entry.url for entry in read(box).entries] == [
        f"https://boxes.example/all/team/tiny/{version}/libvirt-amd64.box" for version in ("1.0.0", "1.1.0")
    ]


def test_the_address_of_all_versions_can_change(box: Path) -> None:
    put(box)
    put(box, url="https://new.example")

    assert read(box).entries[0].url == "https://new.example/team/tiny/1.0.0/libvirt-amd64.box"


def test_a_lost_file_is_put_back(box: Path) -> None:
    put(box)
    before = tree(box.parent / "cat")
    (box.parent / "cat/team/tiny/1.0.0/libvirt-amd64.box").unlink()
    put(box)

    assert tree(box.parent / "cat") == before


def test_a_box_that_changes_meanwhile_is_not_published(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "sha256_of", lambda path: "0" * 64)

    with pytest.raises(DigestError, match="was changed while it was copied"):
        put(box)

    assert tree(box.parent / "cat") == {}


def test_a_kill_before_the_catalog_leaves_the_old_one(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(box)
    before = (box.parent / "cat/team/tiny.json").read_bytes()
    make_box(box, seed=1)

    def killed(path: Path, content: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            put(box, "1.1.0")

    assert (box.parent / "cat/team/tiny.json").read_bytes() == before
    assert put(box, "1.1.0").new is True


@pytest.mark.parametrize("name", ["tiny", "../tiny", "a/../b", "a/b/c", "a/.b", "a/b.json", "a b/c", ""])
def test_names_that_are_none(box: Path, name: str) -> None:
    with pytest.raises(BoxError, match="is no name of a box"):
        publish(box, catalog=box.parent / "cat", name=name, version="1.0.0")


@pytest.mark.parametrize("version", ["latest", "v1", "1.0-rc1", "1..2", ""])
def test_versions_that_are_none(box: Path, version: str) -> None:
    with pytest.raises(BoxError, match="is no version"):
        put(box, version)


def test_a_file_that_is_no_box(tmp_path: Path) -> None:
    (tmp_path / "x.box").write_bytes(os.urandom(2000))

    with pytest.raises(BoxError, match=r"x\.box` is no box"):
        provider_of(tmp_path / "x.box")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BoxError, match="there is no box"):
        provider_of(tmp_path / "x.box")


def test_a_folder_that_cannot_be_written(box: Path) -> None:
    (box.parent / "cat").write_text("a file")

    with pytest.raises(StoreError, match="cannot be written"):
        put(box)
