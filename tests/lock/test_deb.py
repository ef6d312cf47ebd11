"""Packages are read whole and exactly; what is no package is one kind of error."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import deb_sample as sample
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvm.errors import BuildError
from mlvm.lock import deb
from mlvm.lock.deb import Kind


def read(folder: Path, content: bytes) -> deb.Deb:
    return deb.read(sample.written(folder, content))


@pytest.mark.parametrize("compression", sample.COMPRESSIONS)
def test_every_compression_that_debian_used(tmp_path: Path, compression: str) -> None:
    package = read(tmp_path, sample.deb(files={"usr/bin/x": b"x"}, compression=compression))

    assert [(entry.path, entry.data) for entry in package.entries] == [("usr/bin/x", b"x")]


def test_zstd_with_its_package(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    pack = zstandard.ZstdCompressor().compress
    content = sample.ar(
        {
            "debian-binary": b"2.0\n",
            "control.tar.zst": pack(sample.tar({"control": b"Package: z\n"})),
            "data.tar.zst": pack(sample.tar({"a": b"b"})),
        }
    )

    assert read(tmp_path, content).entries[0].data == b"b"


def test_zstd_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    content = sample.ar({"debian-binary": b"2.0\n", "control.tar.zst": b"", "data.tar": b""})

    with pytest.raises(BuildError) as caught:
        read(tmp_path, content)

    assert caught.value.message == (
        "this package is compressed with zstd, which needs another Python package"
    )
    assert caught.value.hint == "pip install 'mlvm[zstd]'"


def test_fields_with_continuation_lines(tmp_path: Path) -> None:
    package = read(tmp_path, sample.deb("long", fields="Description: short\n long\n .\n more\n"))

    assert package.name == "long"
    assert package.fields["Description"] == "short\n long\n .\n more"


def test_scripts_and_conffiles(tmp_path: Path) -> None:
    package = read(
        tmp_path,
        sample.deb(
            scripts={"postinst": "#!/bin/sh\n"},
            control={"conffiles": b"/etc/a\nremove-on-upgrade /etc/b\n/etc/c\n"},
        ),
    )

    assert package.scripts == {"postinst": "#!/bin/sh\n"}
    assert package.conffiles == ("etc/a", "etc/c")


def test_every_kind_of_entry(tmp_path: Path) -> None:
    files = {
        "usr": sample.folder(0o755),
        "usr/a": sample.Put(b"a", mode=0o4755, uid=3, gid=4, mtime=7),
        "usr/b": sample.symlink("a"),
        "usr/c": sample.Put(type=b"1", link="./usr/a"),
    }

    entries = read(tmp_path, sample.deb(files=files)).entries

    assert [(e.path, e.kind, e.mode, e.link) for e in entries] == [
        ("usr", Kind.FOLDER, 0o755, ""),
        ("usr/a", Kind.FILE, 0o4755, ""),
        ("usr/b", Kind.SYMLINK, 0o777, "a"),
        ("usr/c", Kind.HARDLINK, 0o644, "usr/a"),
    ]
    assert (entries[1].uid, entries[1].gid, entries[1].mtime) == (3, 4, 7)


def test_capabilities_are_kept_as_bytes(tmp_path: Path) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\xff"

    package = read(tmp_path, sample.deb(files={"ping": b"x"}, xattrs={"security.capability": capability}))

    assert package.entries[0].xattrs == {"security.capability": capability}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "no ar archive"),
        (b"!<arch>\n", "not a Debian package of format 2"),
        (b"!<arch>\nshort", "broken ar header at byte 8"),
        (sample.deb()[:-40], "cut short"),
        (sample.ar({"debian-binary": b"2.0\n"}), "0 members called control.tar"),
        (
            sample.ar({"debian-binary": b"2.0\n", "control.tar.lz": b"", "data.tar": b""}),
            "compression `.lz` is unknown",
        ),
        (
            sample.ar({"debian-binary": b"2.0\n", "control.tar": sample.tar({}), "data.tar": b""}),
            "it has no 'control'",
        ),
        (sample.deb(files={"../etc/passwd": b""}), "path './../etc/passwd' leads out of the root"),
        (
            sample.deb(files={"dev/sda": sample.Put(type=b"4")}),
            "`./dev/sda` is neither file, folder nor link",
        ),
    ],
)
def test_what_is_no_package(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(BuildError) as caught:
        read(tmp_path, content)

    assert caught.value.message == f"`sample.deb` is not a Debian package that can be read: {what}"


@given(st.binary(max_size=400))
def test_random_bytes_are_never_anything_else(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.raises(BuildError):
        read(Path(name), content)


_WHOLE = sample.deb(files={"usr/bin/x": b"x" * 100}, scripts={"postinst": "true\n"}, compression="")
_PACKED = sample.deb(files={"usr/bin/x": b"x" * 100}, scripts={"postinst": "true\n"})


@given(st.sampled_from([_WHOLE, _PACKED]), st.integers(min_value=0, max_value=20_000), st.binary(max_size=12))
def test_changed_bytes_give_a_package_or_a_build_error(content: bytes, place: int, change: bytes) -> None:
    place %= len(content)
    with tempfile.TemporaryDirectory() as name:
        with contextlib.suppress(BuildError):
            read(Path(name), content[:place] + change + content[place + len(change) :])
