"""What makes a wheel the same bytes twice, without a machine; that it does so in one is `test_making`'s matter."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from mlvm.wheels import inside

DATE = 1735689600


def wheel(path: Path, members: dict[str, str], *, date: tuple[int, ...], mode: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            info = zipfile.ZipInfo(name, date)  # type: ignore[arg-type]
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, text)
    return path


def test_order_times_and_modes_say_nothing(tmp_path: Path) -> None:
    members = {"a.py": "1", "b.py": "2", "x-1.dist-info/RECORD": "b.py,,\na.py,,\n"}
    one = wheel(tmp_path / "1", members, date=(2020, 1, 1, 0, 0, 0))
    turned = dict(reversed(members.items())) | {"x-1.dist-info/RECORD": "a.py,,\nb.py,,\n"}
    other = wheel(tmp_path / "2", turned, date=(2021, 2, 2, 2, 2, 2), mode=0o600)

    for path in (one, other):
        inside.normalise(path, path.with_suffix(".whl"), date=DATE)

    assert one.with_suffix(".whl").read_bytes() == other.with_suffix(".whl").read_bytes()
    with zipfile.ZipFile(one.with_suffix(".whl")) as archive:
        assert archive.namelist() == ["a.py", "b.py", "x-1.dist-info/RECORD"]
        assert {info.date_time for info in archive.infolist()} == {(2025, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o100644}


def test_a_program_stays_one(tmp_path: Path) -> None:
    path = wheel(tmp_path / "1", {"x-1.data/scripts/x": "#!python"}, date=(2020, 1, 1, 0, 0, 0), mode=0o700)

    inside.normalise(path, tmp_path / "2", date=DATE)

    with zipfile.ZipFile(tmp_path / "2") as archive:
        assert archive.infolist()[0].external_attr >> 16 == 0o100755


def test_what_differs_is_named(tmp_path: Path) -> None:
    one = wheel(tmp_path / "1", {"a": "1", "b": "2", "c": "3"}, date=(2020, 1, 1, 0, 0, 0))
    other = wheel(tmp_path / "2", {"a": "1", "b": "4", "d": "3"}, date=(2020, 1, 1, 0, 0, 0))

    assert inside.differences(one, other) == ["b", "c", "d"]
    assert inside.differences(one, one) == []


def test_an_archive_is_unpacked_anew(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "sdist", "w:gz") as archive:
        info = tarfile.TarInfo("x-1/setup.py")
        info.size = 2
        archive.addfile(info, io.BytesIO(b"ok"))
    source = inside.unpack(tmp_path / "sdist", tmp_path / "source")
    (source / "left behind").touch()

    again = inside.unpack(tmp_path / "sdist", tmp_path / "source")

    assert again == source == tmp_path / "source" / "x-1"
    assert [path.name for path in again.iterdir()] == ["setup.py"]


def test_an_archive_without_one_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sdist", "w") as archive:
        archive.writestr("setup.py", "")

    with pytest.raises(inside.FailedError, match="the sdist has not one folder at its top"):
        inside.unpack(tmp_path / "sdist", tmp_path / "source")


def test_the_end_of_what_was_said(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"{number}\n" for number in range(100_000)))

    assert inside.last_lines(tmp_path / "log").splitlines() == [str(one) for one in range(99_960, 100_000)]
