"""What is wrapped is read back by programs that are not ours: qemu-img and dissect.hypervisor see the same disk."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dissect.hypervisor.disk.qcow2 import QCow2
from dissect.hypervisor.disk.vhdx import VHDX
from dissect.hypervisor.disk.vmdk import VMDK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlvm.box.archive import make_tar
from mlvm.box.deflate import Deflater
from mlvm.box.qcow2 import wrap_qcow2
from mlvm.box.recipe import Recipe, Scratch
from mlvm.box.vhdx import crc32c, wrap_vhdx
from mlvm.box.vmdk import wrap_sparse, wrap_stream

MakeDeflater = Callable[[int], Deflater]


def raw_by_qemu(path: Path, kind: str) -> bytes:
    target = path.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", kind, "-O", "raw", path, target], check=True)
    return target.read_bytes()


def checked_by_qemu(path: Path, kind: str) -> None:
    subprocess.run(["qemu-img", "check", "-q", "-f", kind, path], check=True)


def written(recipe: Recipe, path: Path) -> Path:
    recipe.write(path)
    assert path.stat().st_size == recipe.size
    return path


def test_qemu_reads_the_qcow2(disk: Recipe, content: bytes, tmp_path: Path) -> None:
    path = written(wrap_qcow2(disk), tmp_path / "d.qcow2")
    checked_by_qemu(path, "qcow2")
    assert raw_by_qemu(path, "qcow2") == content


def test_dissect_reads_the_qcow2(disk: Recipe, content: bytes, tmp_path: Path) -> None:
    path = written(wrap_qcow2(disk), tmp_path / "d.qcow2")
    with path.open("rb") as stream:
        assert QCow2(stream).open().read(len(content)) == content


def test_the_qcow2_has_no_other_file(disk: Recipe, tmp_path: Path) -> None:
    path = written(wrap_qcow2(disk), tmp_path / "d.qcow2")
    shown = subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True)
    told = json.loads(shown.stdout)
    assert "backing-filename" not in told
    assert "data-file" not in told["format-specific"]["data"]


def test_qemu_reads_the_sparse_vmdk(disk: Recipe, content: bytes, tmp_path: Path) -> None:
    path = written(wrap_sparse(disk, name="d.vmdk"), tmp_path / "d.vmdk")
    checked_by_qemu(path, "vmdk")
    assert raw_by_qemu(path, "vmdk") == content


def test_dissect_reads_the_sparse_vmdk(disk: Recipe, content: bytes, tmp_path: Path) -> None:
    path = written(wrap_sparse(disk, name="d.vmdk"), tmp_path / "d.vmdk")
    with path.open("rb") as stream:
        assert VMDK(stream).read(len(content)) == content


def test_qemu_reads_the_stream_vmdk(
    disk: Recipe, content: bytes, tmp_path: Path, deflater: MakeDeflater
) -> None:
    path = written(wrap_stream(disk, name="d.vmdk", deflater=deflater(2)), tmp_path / "d.vmdk")
    checked_by_qemu(path, "vmdk")
    assert raw_by_qemu(path, "vmdk") == content


def test_dissect_reads_the_stream_vmdk(
    disk: Recipe, content: bytes, tmp_path: Path, deflater: MakeDeflater
) -> None:
    path = written(wrap_stream(disk, name="d.vmdk", deflater=deflater(2)), tmp_path / "d.vmdk")
    with path.open("rb") as stream:
        assert VMDK(stream).read(len(content)) == content


def test_qemu_reads_the_vhdx(disk: Recipe, content: bytes, tmp_path: Path) -> None:
    path = written(wrap_vhdx(disk), tmp_path / "d.vhdx")
    checked_by_qemu(path, "vhdx")
    assert raw_by_qemu(path, "vhdx") == content


def test_dissect_reads_the_vhdx(disk: Recipe, content: bytes, tmp_path: Path) -> None:
    path = written(wrap_vhdx(disk), tmp_path / "d.vhdx")
    with path.open("rb") as stream:
        assert VHDX(stream).read(len(content)) == content


def test_the_number_of_cpus_does_not_show_in_a_gzip(
    disk: Recipe, tmp_path: Path, deflater: MakeDeflater
) -> None:
    deflater(1).gzip(disk, tmp_path / "one")
    deflater(3).gzip(disk, tmp_path / "three")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "three").read_bytes()


def test_gzip_reads_what_was_deflated_in_shares(
    disk: Recipe, content: bytes, tmp_path: Path, deflater: MakeDeflater
) -> None:
    deflater(3).gzip(disk, tmp_path / "disk.gz")
    assert gzip.decompress((tmp_path / "disk.gz").read_bytes()) == content


def test_the_number_of_cpus_does_not_show_in_a_stream(
    disk: Recipe, tmp_path: Path, deflater: MakeDeflater
) -> None:
    found = [
        written(wrap_stream(disk, name="d", deflater=deflater(n)), tmp_path / str(n)).read_bytes()
        for n in (1, 3)
    ]
    assert found[0] == found[1]


def test_tar_reads_the_box(scratch: Scratch) -> None:
    member = Recipe(scratch)
    member.data(b"hello")
    box = b"".join(make_tar({"Virtual Machines/box.xml": member}, scratch=scratch).content())
    with tarfile.open(fileobj=io.BytesIO(box)) as tar:
        found = tar.extractfile("Virtual Machines/box.xml")
        assert found is not None
        assert found.read() == b"hello"


def test_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283


runs = st.lists(st.tuples(st.booleans(), st.integers(1, 300_000)), max_size=8)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("many")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy host is no fault of the code
@given(runs=runs, offset=st.integers(0, 1_000_000), length=st.integers(0, 500_000))
def test_a_part_of_a_recipe_is_that_part(
    many: Path, runs: list[tuple[bool, int]], offset: int, length: int
) -> None:
    scratch = Scratch(many / "bytes")
    scratch.path.unlink(missing_ok=True)
    recipe, expected = Recipe(scratch), b""
    for zeros, size in runs:
        if zeros:
            recipe.zeros(size)
            expected += bytes(size)
        else:
            recipe.data(b"x" * size)
            expected += b"x" * size
    part = Recipe(scratch)
    for piece in recipe.part(offset, length):
        part.add(piece)
    assert b"".join(part.content()) == expected[offset : offset + length].ljust(length, b"\0")
    blocks = list(recipe.full_blocks(65536))
    assert blocks == [
        n for n in range(-(-len(expected) // 65536)) if expected[n * 65536 : (n + 1) * 65536].strip(b"\0")
    ]
