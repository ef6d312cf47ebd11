"""Trees become tars that tarfile reads back, entry for entry, and that never differ."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvm.errors import BuildError
from mlvm.image.tar import write_tar
from mlvm.image.tree import SOURCE_DATE, Node, Tree
from mlvm.lock.deb import Kind


def written(tree: Tree) -> bytes:
    stream = io.BytesIO()
    write_tar(tree, stream)
    return stream.getvalue()


def read_back(tree: Tree) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """Return all entries but the root."""
    with tarfile.open(fileobj=io.BytesIO(written(tree))) as archive:
        found = {}
        for member in archive.getmembers()[1:]:
            stream = archive.extractfile(member) if member.isreg() else None
            found[member.name] = (member, stream.read() if stream else b"")
        return found


NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=90
)
PATHS = st.lists(NAMES.filter(lambda name: name not in {".", ".."}), min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(PATHS, st.binary(max_size=1500), max_size=6))
def test_any_names_and_contents(files: dict[str, bytes]) -> None:
    tree = Tree()
    for path, content in files.items():
        tree.file(path, content)

    assert {name: content for name, (_, content) in read_back(tree).items()} == files


def test_what_is_written_about_an_entry() -> None:
    tree = Tree()
    tree.file("a", b"x", mode=0o4755, owner=1000, group=1001)
    member, _ = read_back(tree)["a"]

    assert (member.mode, member.uid, member.gid, member.mtime) == (0o4755, 1000, 1001, SOURCE_DATE)
    assert (member.uname, member.gname) == ("", "")


def test_the_root_comes_first_and_is_open_to_readers_only() -> None:
    tree = Tree()
    tree.file("a", b"")
    with tarfile.open(fileobj=io.BytesIO(written(tree))) as archive:
        root = archive.next()

    assert root is not None
    assert (root.name, root.isdir(), root.mode, root.uid, root.gid) == (".", True, 0o755, 0, 0)
    assert root.mtime == SOURCE_DATE


def test_nothing_is_younger_than_the_source_date_and_older_things_stay_old() -> None:
    tree = Tree()
    tree.put("old", Node(kind=Kind.FILE, mode=0o644, mtime=5))
    tree.put("young", Node(kind=Kind.FILE, mode=0o644, mtime=SOURCE_DATE + 5))

    assert [member.mtime for member, _ in read_back(tree).values()] == [5, SOURCE_DATE]


@pytest.mark.parametrize("length", [1, 99, 100, 101, 155, 156, 250, 400])
def test_long_links(length: int) -> None:
    tree = Tree()
    tree.symlink("link", "x" * length)

    assert read_back(tree)["link"][0].linkname == "x" * length


@pytest.mark.parametrize("folder", [50, 154, 155, 156, 200])
@pytest.mark.parametrize("name", [1, 99, 100, 101])
def test_long_names_with_and_without_room_for_a_prefix(folder: int, name: int) -> None:
    path = "d" * folder + "/" + "n" * name
    tree = Tree()
    tree.file(path, b"x")

    assert list(read_back(tree)) == [path]


def test_a_pax_header_only_where_it_is_needed() -> None:
    plain, long = Tree(), Tree()
    plain.file("a" * 100, b"")
    long.file("a" * 101, b"")

    assert b"PaxHeaders" not in written(plain)
    assert b"PaxHeaders" in written(long)


def test_attributes_are_kept() -> None:
    value = b"\x01\x00\x00\x02\x00\x04\x00\xff\n="
    tree = Tree()
    tree.put("ping", Node(kind=Kind.FILE, mode=0o755, xattrs={"security.capability": value}))

    headers = read_back(tree)["ping"][0].pax_headers

    assert headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == value


def test_hard_links_come_after_their_targets() -> None:
    tree = Tree()
    tree.put("a", Node(kind=Kind.HARDLINK, mode=0o644, link="z"))
    tree.file("z", b"shared")

    assert [(name, member.linkname) for name, (member, _) in read_back(tree).items()] == [
        ("z", ""),
        ("a", "z"),
    ]


def test_a_hard_link_to_nothing() -> None:
    tree = Tree()
    tree.put("a", Node(kind=Kind.HARDLINK, mode=0o644, link="b"))

    with pytest.raises(BuildError) as caught:
        written(tree)

    assert caught.value.message == "`/a` is a hard link to `/b`, which is no file"


def test_content_that_is_not_as_long_as_it_says() -> None:
    class Liar:
        size = 3

        def pieces(self):  # type: ignore[no-untyped-def]
            yield b"four"

    tree = Tree()
    tree.file("a", Liar())

    with pytest.raises(BuildError) as caught:
        written(tree)

    assert caught.value.message == "`/a` has 4 bytes where 3 were promised"


def test_the_order_of_making_does_not_matter() -> None:
    first, second = Tree(), Tree()
    for tree, names in ((first, "abc"), (second, "cba")):
        for name in names:
            tree.file(f"d/{name}", name)
        tree.add_parents()

    assert written(first) == written(second)
