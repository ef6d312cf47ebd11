"""The cache of shared libraries is what glibc searches in."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from mlvm.image.library_cache import PATH, add_library_cache, pack
from mlvm.image.tree import Tree


def names(content: bytes) -> list[tuple[str, str]]:
    """Read a cache as glibc does."""
    count, length = struct.unpack_from("<II", content, 20)
    found = []
    for index in range(count):
        _, key, value, _, _ = struct.unpack_from("<iIIIQ", content, 48 + 24 * index)
        found.append(tuple(content[at:].split(b"\0", 1)[0].decode() for at in (key, value)))
    assert len(content) == 48 + 24 * count + length
    return found


def test_entries_point_at_their_strings() -> None:
    assert names(pack({"liba.so.1": "/lib/liba.so.1", "ld-x.so.2": "/lib/ld-x.so.2"})) == [
        ("liba.so.1", "/lib/liba.so.1"),
        ("ld-x.so.2", "/lib/ld-x.so.2"),
    ]


def test_numbers_are_ordered_by_value_and_the_largest_comes_first() -> None:
    given = ["libx.so.9", "libx.so.10", "libx.so", "liby.so.1", "libx1.so", "libx.so.1.2"]

    ordered = [name for name, _ in names(pack({name: f"/lib/{name}" for name in given}))]

    assert ordered == ["liby.so.1", "libx1.so", "libx.so.10", "libx.so.9", "libx.so.1.2", "libx.so"]


@pytest.mark.skipif(not Path("/sbin/ldconfig").exists(), reason="needs the host's ldconfig")
def test_ldconfig_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.write_bytes(pack({"liba.so.1": "/lib/liba.so.1"}))

    said = subprocess.run(
        ["/sbin/ldconfig", "-p", "-C", path], capture_output=True, text=True, check=True
    ).stdout

    assert said.splitlines()[:2] == [
        f"1 libs found in cache `{path}'",
        "\tliba.so.1 (libc6,x86-64) => /lib/liba.so.1",
    ]


def test_what_is_no_library_is_left_out() -> None:
    tree = Tree()
    tree.file("usr/lib/libtext.so", "INPUT(-lx)")
    tree.symlink("usr/lib/libnowhere.so.1", "libgone.so.1")
    tree.symlink("usr/lib/libround.so.1", "libround.so.1")
    add_library_cache(tree)

    assert names(tree.read(PATH)) == []
