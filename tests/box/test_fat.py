"""The boot partition, read back by mtools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mlvm.box.fat import make_fat
from mlvm.errors import BuildError

SIZE = 32 << 20


def test_mtools_reads_every_file(tmp_path: Path) -> None:
    files = {
        "EFI/BOOT/BOOTX64.EFI": os.urandom(150_000),
        "MLVM/INITRD": b"",
        "MLVM/VMLINUZ": os.urandom(2048),
    }
    (tmp_path / "fat").write_bytes(make_fat(files, size=SIZE, serial=1, label="MLVM"))
    for name, content in files.items():
        (tmp_path / "read").unlink(missing_ok=True)
        subprocess.run(["mcopy", "-i", tmp_path / "fat", f"::{name}", tmp_path / "read"], check=True)
        assert (tmp_path / "read").read_bytes() == content


def test_it_is_as_large_as_its_partition() -> None:
    assert len(make_fat({"A": b"x"}, size=SIZE, serial=1, label="MLVM")) == SIZE


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BuildError, match="do not fit into the box's boot partition"):
        make_fat({"A": bytes(SIZE)}, size=SIZE, serial=1, label="MLVM")


@pytest.mark.parametrize("name", ["lower", "TOOLONGNAME", "A.LONG", "A B"])
def test_only_short_names_are_written(name: str) -> None:
    with pytest.raises(BuildError, match="no name of eight and three capitals"):
        make_fat({name: b"x"}, size=SIZE, serial=1, label="MLVM")
