"""The writable disk: a real ext4, sparse."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mlvm.errors import StoreError
from mlvm.files import disk_used
from mlvm.image.overlay import make_overlay

MIB = 1024 * 1024


def test_an_empty_file_system_that_takes_little(tmp_path: Path) -> None:
    path = tmp_path / "overlay.img"

    make_overlay(path, size=1024 * MIB, tools=tmp_path)
    check = subprocess.run(["/sbin/e2fsck", "-fn", path], capture_output=True, check=False)

    assert check.returncode == 0, check.stdout
    assert path.stat().st_size == 1024 * MIB
    assert disk_used(path) < 64 * MIB


def test_a_disk_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "overlay.img").write_bytes(b"precious")

    with pytest.raises(FileExistsError):
        make_overlay(tmp_path / "overlay.img", size=64 * MIB, tools=tmp_path)
    assert (tmp_path / "overlay.img").read_bytes() == b"precious"


def test_a_disk_too_small_for_a_file_system(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a disk of 1024 bytes is too small"):
        make_overlay(tmp_path / "overlay.img", size=1024, tools=tmp_path)
