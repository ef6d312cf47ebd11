"""Boxes of strangers: what is taken, and everything that is refused, each with nothing left behind."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlvm.box import foreign, headers
from mlvm.box.foreign import take
from mlvm.box.headers import look_at
from mlvm.box.unpack import Limits, unpack
from mlvm.errors import BoxError

LIBVIRT = b'{"provider": "libvirt", "format": "qcow2", "virtual_size": 1}'


def image(path: Path, kind: str, *options: str) -> bytes:
    """Return a disk image of 1 MiB as qemu-img makes it."""
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, *options, path, "1M"], check=True)
    return path.read_bytes()


def box(
    path: Path, members: dict[str, bytes], edit: Callable[[tarfile.TarInfo], None] = lambda _: None
) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            edit(entry)
            tar.addfile(entry, io.BytesIO(content) if entry.isreg() else None)
    return path


@pytest.fixture
def qcow2(tmp_path: Path) -> bytes:
    return image(tmp_path / "made.qcow2", "qcow2")


def refused(path: Path, target: Path, words: str, **options: object) -> None:
    with pytest.raises(BoxError, match=words):
        take(path, target, **options)  # type: ignore[arg-type]
    assert not target.exists()


def test_a_libvirt_box_is_taken(tmp_path: Path, qcow2: bytes) -> None:
    found = take(box(tmp_path / "b.box", {"./metadata.json": LIBVIRT, "./box.img": qcow2}), tmp_path / "t")
    assert (found.provider, found.facts.format, found.facts.size) == ("libvirt", "qcow2", 1 << 20)
    assert found.disk.read_bytes() == qcow2


def test_a_newer_libvirt_box_is_taken(tmp_path: Path, qcow2: bytes) -> None:
    metadata = {"provider": "libvirt", "disks": [{"path": "root.qcow2", "format": "qcow2"}]}
    path = box(tmp_path / "b.box", {"metadata.json": json.dumps(metadata).encode(), "root.qcow2": qcow2})
    assert take(path, tmp_path / "t").disk.name == "root.qcow2"


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized"])
def test_a_vmdk_of_one_file_is_taken(tmp_path: Path, subformat: str) -> None:
    vmdk = image(tmp_path / "d.vmdk", "vmdk", "-o", f"subformat={subformat}")
    vmx = b'scsi0:0.fileName = "disk.vmdk"\n'
    members = {"metadata.json": b'{"provider": "vmware_desktop"}', "a.vmx": vmx, "disk.vmdk": vmdk}
    assert take(box(tmp_path / "b.box", members), tmp_path / "t").facts.size == 1 << 20


@pytest.mark.parametrize(("kind", "name", "size"), [("vhdx", "d.vhdx", 1 << 20), ("vpc", "d.vhd", 1048576)])
def test_a_hyperv_box_is_taken(tmp_path: Path, kind: str, name: str, size: int) -> None:
    options = ["-o", "force_size=on"] if kind == "vpc" else []
    disk = image(tmp_path / name, kind, *options)
    members = {"metadata.json": b'{"provider": "hyperv"}', f"Virtual Hard Disks/{name}": disk}
    assert take(box(tmp_path / "b.box", members), tmp_path / "t").facts.size == size


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "C:x", "a\\..\\x", "x" * 300, "a\nb"])
def test_no_member_leaves_its_folder(tmp_path: Path, name: str) -> None:
    path = box(tmp_path / "b.box", {name: b"x"})
    refused(path, tmp_path / "t", "is no name for a file in a box")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b.box"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_only_plain_files_are_taken(tmp_path: Path, kind: bytes) -> None:
    def edit(entry: tarfile.TarInfo) -> None:
        entry.type, entry.size, entry.linkname = kind, 0, "/etc/passwd"

    refused(box(tmp_path / "b.box", {"metadata.json": b""}, edit), tmp_path / "t", "is no plain file")


def test_a_name_said_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.box"
    box(path, {"box.img": b"1", "BOX.IMG": b"2"})
    refused(path, tmp_path / "t", "is in the box twice")


def test_a_bomb_is_refused_before_it_goes_off(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("box.img")
    entry.size = 1 << 50
    path = tmp_path / "b.box"
    path.write_bytes(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    refused(path, tmp_path / "t", "unpacks to more than")


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sparse").touch()
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 30)
    subprocess.run(["tar", "-S", "-C", tmp_path, "-cf", tmp_path / "b.box", "sparse"], check=True)
    (tmp_path / "sparse").unlink()
    refused(tmp_path / "b.box", tmp_path / "t", "no plain file")


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    path = box(tmp_path / "b.box", {str(n): b"" for n in range(5)})
    refused(path, tmp_path / "t", "more than 4 members", limits=Limits(members=4))


def test_zeros_take_no_room(tmp_path: Path) -> None:
    unpack(box(tmp_path / "b.box", {"zeros": bytes(32 << 20)}), tmp_path / "t")
    found = (tmp_path / "t" / "zeros").stat()
    assert (found.st_size, found.st_blocks) == (32 << 20, 0)


def test_a_box_cut_short_is_refused(tmp_path: Path, qcow2: bytes) -> None:
    path = box(tmp_path / "b.box", {"metadata.json": LIBVIRT, "box.img": qcow2})
    path.write_bytes(path.read_bytes()[:-200])
    refused(path, tmp_path / "t", "cannot be unpacked|cut short")


def test_a_backing_file_is_refused(tmp_path: Path) -> None:
    disk = image(tmp_path / "d", "qcow2", "-u", "-F", "raw", "-b", "/etc/shadow")
    path = box(tmp_path / "b.box", {"metadata.json": LIBVIRT, "box.img": disk})
    refused(path, tmp_path / "t", "names a backing file")


def test_an_external_data_file_is_refused(tmp_path: Path) -> None:
    disk = image(tmp_path / "d", "qcow2", "-o", f"data_file={tmp_path}/other,data_file_raw=on")
    path = box(tmp_path / "b.box", {"metadata.json": LIBVIRT, "box.img": disk})
    refused(path, tmp_path / "t", "its data are in another file")


def test_a_vmdk_of_many_files_is_refused(tmp_path: Path) -> None:
    disk = image(tmp_path / "d.vmdk", "vmdk", "-o", "subformat=monolithicFlat")
    members = {
        "metadata.json": b'{"provider": "vmware_desktop"}',
        "a.vmx": b'scsi0:0.fileName = "disk.vmdk"\n',
        "disk.vmdk": disk.ljust(1024, b"\n"),
    }
    refused(box(tmp_path / "b.box", members), tmp_path / "t", "description of other files")


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"parentCID=ffffffff", b"parentCID=00000001", "has a parent"),
        (b'SPARSE "d.vmdk"', b'FLAT "/etc/abc"', "names other files"),
        (b'SPARSE "d.vmdk"', b'SPARSE "../abc"', "names other files"),
    ],
)
def test_a_sparse_vmdk_that_names_others_is_refused(
    tmp_path: Path, before: bytes, after: bytes, words: str
) -> None:
    disk = image(tmp_path / "d.vmdk", "vmdk")
    assert before in disk
    (tmp_path / "d.vmdk").write_bytes(disk.replace(before, after.ljust(len(before))))
    with pytest.raises(BoxError, match=words):
        look_at(tmp_path / "d.vmdk", wanted="vmdk")


def test_a_differencing_vhd_is_refused(tmp_path: Path) -> None:
    disk = bytearray(image(tmp_path / "d.vhd", "vpc"))
    struct.pack_into(">I", disk, len(disk) - 512 + 60, 4)
    (tmp_path / "d.vhd").write_bytes(disk)
    with pytest.raises(BoxError, match="difference to another disk"):
        look_at(tmp_path / "d.vhd", wanted="vpc")


def test_a_vhdx_with_a_parent_is_refused(tmp_path: Path) -> None:
    disk = bytearray(image(tmp_path / "d.vhdx", "vhdx"))
    place = disk.index(headers._VHDX_PARAMETERS)
    table = disk.rindex(b"metadata", 0, place)
    (offset,) = struct.unpack_from("<I", disk, place + 16)
    struct.pack_into("<I", disk, table + offset + 4, 2)
    (tmp_path / "d.vhdx").write_bytes(disk)
    with pytest.raises(BoxError, match="has a parent"):
        look_at(tmp_path / "d.vhdx", wanted="vhdx")


@pytest.mark.parametrize("href", ["../../etc/passwd", "/etc/passwd", "gone.vmdk"])
def test_an_ovf_s_references_stay_in_the_box(tmp_path: Path, href: str) -> None:
    ovf = f'<Envelope xmlns:o="urn:o"><References><File o:href="{href}"/></References></Envelope>'
    members = {"metadata.json": b'{"provider": "virtualbox"}', "box.ovf": ovf.encode()}
    refused(box(tmp_path / "b.box", members), tmp_path / "t", "no name for a file|has no such file")


def test_an_ovf_with_entities_is_refused(tmp_path: Path) -> None:
    ovf = b'<!DOCTYPE a [<!ENTITY b "b">]><a>&b;</a>'
    members = {"metadata.json": b'{"provider": "virtualbox"}', "box.ovf": ovf}
    refused(box(tmp_path / "b.box", members), tmp_path / "t", "declares entities")


@pytest.mark.parametrize("wanted", ["qcow2", "vmdk", "vhdx", "vpc", "raw"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_disk_of_any_bytes_is_read_or_refused(tmp_path: Path, wanted: str, data: st.DataObject) -> None:
    path = tmp_path / "any"
    kind = "qcow2" if wanted == "raw" else wanted
    start = tmp_path / f"start-{kind}"
    whole = bytearray(start.read_bytes() if start.exists() else image(start, kind))
    for _ in range(data.draw(st.integers(0, 6))):
        place = data.draw(st.integers(0, min(len(whole), 4096) - 1) | st.integers(0, len(whole) - 1))
        whole[place] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.just(len(whole)) | st.integers(0, len(whole)))])
    try:
        facts = look_at(path, wanted=wanted)
    except BoxError:
        return
    assert 0 < facts.size <= headers.LARGEST


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=3000))
def test_a_box_of_any_bytes_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.box").write_bytes(content)
    with pytest.raises(BoxError):
        take(tmp_path / "b.box", tmp_path / "t")
    assert not (tmp_path / "t").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=2)
            | st.dictionaries(st.sampled_from(["provider", "disks", "format", "path"]), x, max_size=4)
        ),
        max_leaves=6,
    )
)
def test_any_metadata_is_read_or_refused(tmp_path: Path, metadata: object) -> None:
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(BoxError):
        foreign.find_disk(tmp_path)
