"""The shared folders' server, asked as a guest asks it: in bytes."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvm.image.accounts import USER
from mlvm.machine.share import mounting, nfs
from mlvm.machine.share.listed import Shared, load, save
from mlvm.machine.share.network import GUEST_ID
from mlvm.machine.share.outcome import NOTSUPP
from mlvm.machine.share.rpc import Answering, Program, Records
from mlvm.machine.share.server import Exports
from mlvm.machine.share.xdr import Reader, opaque, u32, u64

from .share_client import NOTHING_CHANGES, Client, call, mode_of

STALE, ROFS, EXIST, INVAL = 70, 30, 17, 22
PROGRAM = Program(number=nfs.NUMBER, version=3, procedures={})
HOSTILE = [
    "a,b",
    "a b",
    "-rf",
    "ünï",
    "new\nline",
    "a'b\"c",
    "$(x)",
    "\udcff\udcfe",
    "*",
    ".hidden",
    "x" * 200,
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "shared"
    (made / "sub" / "deep").mkdir(parents=True)
    (made / "a.txt").write_text("hello")
    (made / "sub" / "deep" / "b.txt").write_text("deep")
    return made


@pytest.fixture(autouse=True)
def servers() -> Iterator[None]:
    """Close what the clients of a test asked."""
    yield
    while Client.made:
        Client.made.pop().tree.close()


@pytest.fixture
def client(folder: Path) -> Client:
    return Client(folder)


def test_the_guests_user_is_who_the_guest_thinks() -> None:
    assert GUEST_ID == USER.uid == USER.gid


def test_what_is_there_is_read(client: Client) -> None:
    assert client.read(client.handle("sub/deep/b.txt")) == b"deep"


def test_what_is_ours_is_the_guests_users(client: Client) -> None:
    assert client.getattr(client.handle("a.txt")).uid == GUEST_ID


@pytest.mark.parametrize("name", HOSTILE)
def test_every_name_is_a_name(client: Client, folder: Path, name: str) -> None:
    status, handle = client.create(client.root, os.fsencode(name))
    client.write(handle, b"x")

    assert status == 0
    assert (folder / name).read_text() == "x"
    assert os.fsencode(name) in client.names(client.root)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc/passwd", b"a\0b"])
def test_no_name_leads_elsewhere(client: Client, name: bytes) -> None:
    assert client.create(client.root, name)[0] == INVAL


def test_the_folder_above_the_shared_one_is_itself(client: Client) -> None:
    status, reader = client.ask(3, opaque(client.root) + opaque(b".."))

    assert (status, reader.opaque(64)) == (0, client.root)


def test_a_link_out_is_shown_and_not_followed(client: Client, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "out").symlink_to(tmp_path)
    handle = client.handle("out")

    assert client.getattr(handle).kind == 5
    with pytest.raises(OSError, match="20"):
        client.handle("out/secret")
    with pytest.raises(OSError, match="21"):
        client.read(handle)


def test_a_folder_that_becomes_a_link_leads_nowhere(client: Client, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("secret")
    deep = client.handle("sub/deep")
    (folder / "sub" / "deep").rename(tmp_path / "gone")
    (folder / "sub" / "deep").symlink_to(tmp_path / "elsewhere")
    time.sleep(0.6)  # longer than a way is believed

    status, _ = client.ask(3, opaque(deep) + opaque(b"b.txt"))

    assert status == STALE


def test_a_file_replaced_by_a_link_is_not_written_through(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "victim").write_text("safe")
    handle = client.handle("a.txt")
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "victim")

    assert client.write(handle, b"bad") != 0
    assert (tmp_path / "victim").read_text() == "safe"


def test_a_mode_is_not_changed_through_a_link(client: Client, folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    victim.chmod(0o600)
    (folder / "out").symlink_to(victim)
    client.ask(2, opaque(client.handle("out")) + u32(1) + u32(0o777) + u32(0) * 6)

    assert mode_of(victim) == 0o600


def test_bits_that_lend_rights_are_not_given(client: Client, folder: Path) -> None:
    _, handle = client.create(client.root, b"program", mode=0o6755)
    client.ask(2, opaque(handle) + u32(1) + u32(0o6755) + u32(0) * 6)

    assert mode_of(folder / "program") == 0o755


def test_a_program_stays_one(client: Client, folder: Path) -> None:
    client.create(client.root, b"run.sh", mode=0o755)

    assert mode_of(folder / "run.sh") == 0o755


def test_a_file_its_creator_may_not_write_is_written_by_its_creator(client: Client, folder: Path) -> None:
    """As git makes its objects."""
    _, handle = client.create(client.root, b"object", mode=0o444)

    assert client.write(handle, b"content") == 0
    assert (folder / "object").read_text() == "content"


def test_no_devices_are_made(client: Client, folder: Path) -> None:
    status, _ = client.ask(11, opaque(client.root) + opaque(b"pipe") + u32(7) + NOTHING_CHANGES)

    assert status == NOTSUPP
    assert not (folder / "pipe").exists()


def test_a_pipe_of_the_hosts_hangs_nobody(client: Client, folder: Path) -> None:
    os.mkfifo(folder / "pipe")

    with pytest.raises(OSError, match="21"):
        client.read(client.handle("pipe"))


def test_owners_are_not_changed(client: Client) -> None:
    status, _ = client.ask(2, opaque(client.handle("a.txt")) + u32(0) + u32(1) + u32(0) + u32(0) * 5)

    assert status == 1


@pytest.mark.parametrize(
    ("procedure", "arguments"),
    [
        (8, opaque(b"new") + u32(0) + NOTHING_CHANGES),
        (9, opaque(b"new") + NOTHING_CHANGES),
        (10, opaque(b"new") + NOTHING_CHANGES + opaque(b"target")),
        (12, opaque(b"a.txt")),
        (13, opaque(b"sub")),
        (14, opaque(b"a.txt") + opaque(b"\0") + opaque(b"new")),
    ],
)
def test_what_is_read_only_stays_as_it_is(folder: Path, procedure: int, arguments: bytes) -> None:
    client = Client(folder, write=False)
    before = sorted(folder.rglob("*"))

    assert client.ask(procedure, opaque(client.root) + arguments)[0] == ROFS
    assert client.write(client.handle("a.txt"), b"x") == ROFS
    assert client.ask(2, opaque(client.handle("a.txt")) + NOTHING_CHANGES + u32(0))[0] == ROFS
    assert sorted(folder.rglob("*")) == before
    assert (folder / "a.txt").read_text() == "hello"


def test_a_handle_means_the_same_to_the_next_server(folder: Path, client: Client) -> None:
    handle = client.handle("sub/deep/b.txt")

    assert Client(folder).read(handle) == b"deep"


def test_a_handle_means_its_file_wherever_it_was_moved(folder: Path, client: Client) -> None:
    handle = client.handle("sub/deep/b.txt")
    (folder / "sub").rename(folder / "other")

    assert Client(folder).read(handle) == b"deep"


def test_a_deep_file_is_found_again(folder: Path) -> None:
    path = "/".join(f"d{number}" for number in range(12))
    (folder / path).mkdir(parents=True)
    (folder / path / "f").write_text("far down")
    handle = Client(folder).handle(f"{path}/f")

    assert len(handle) <= 64
    assert Client(folder).read(handle) == b"far down"


def test_what_is_gone_is_stale(folder: Path, client: Client) -> None:
    handle = client.handle("a.txt")
    (folder / "a.txt").unlink()

    with pytest.raises(OSError, match=str(STALE)):
        client.getattr(handle)


def test_a_folder_that_is_gone_is_stale_and_comes_back(folder: Path, client: Client, tmp_path: Path) -> None:
    folder.rename(tmp_path / "away")
    with pytest.raises(OSError, match=str(STALE)):
        client.names(client.root) if time.sleep(0.6) is None else None
    (tmp_path / "away").rename(folder)

    assert client.read(client.handle("a.txt")) == b"hello"


@given(st.binary(max_size=80))
def test_an_invented_handle_is_stale_or_means_something_inside(
    tmp_path_factory: pytest.TempPathFactory, handle: bytes
) -> None:
    client = Client(tmp_path_factory.getbasetemp())
    status, _ = client.ask(1, opaque(handle)) if len(handle) <= 64 else (STALE, None)

    assert status == STALE or handle == client.root


@pytest.mark.parametrize("plus", [True, False])
def test_a_long_listing_comes_in_parts_and_whole(folder: Path, client: Client, *, plus: bool) -> None:
    for number in range(500):
        (folder / f"file-{number:04}").touch()

    found = client.names(client.root, most=2048, plus=plus)

    assert sorted(found) == sorted([b".", b"..", *(os.fsencode(path.name) for path in folder.iterdir())])


def test_an_answer_that_got_lost_is_given_again(client: Client, folder: Path) -> None:
    arguments = opaque(client.root) + opaque(b"a.txt")

    first = client.ask(12, arguments, xid=77_000)[0]
    again = client.ask(12, arguments, xid=77_000)[0]

    assert (first, again) == (0, 0)


def test_made_twice_is_there_already(client: Client) -> None:
    assert client.create(client.root, b"a.txt")[0] == EXIST


def test_renaming_is_seen_by_handles(client: Client, folder: Path) -> None:
    handle = client.handle("sub/deep/b.txt")
    status, _ = client.ask(
        14, opaque(client.root) + opaque(b"sub") + opaque(client.root) + opaque(b"renamed")
    )

    assert status == 0
    assert client.read(handle) == b"deep"
    assert (folder / "renamed" / "deep" / "b.txt").exists()


def test_garbage_is_answered_as_such(client: Client) -> None:
    answer = client.answering.answer(call(nfs.NUMBER, 3, b"\0\0\0\xff")[4:])

    assert answer is not None
    assert Reader(answer, 24).u32() == 4


def test_mounting_gives_the_first_handle(folder: Path) -> None:
    client = Client(folder)
    program = mounting.program(lambda number: client.tree if number == 0 else None)
    answer = Answering(program).answer(call(mounting.NUMBER, 1, opaque(b"/0"))[4:])

    assert answer is not None
    assert answer.endswith(u32(0) + opaque(b"\0") + u32(1) + u32(1))


# ------------------------------------------------------------------------------------------------------ the stream


def records_of(stream: bytes, cuts: list[int]) -> list[bytes]:
    records, found, at = Records(PROGRAM), [], 0
    for cut in sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)}):
        found += list(records.feed(stream[at:cut]))
        at = cut
    return found


@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.integers(0, 800), max_size=20))
def test_records_come_whole_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    calls = [call(nfs.NUMBER, 1, opaque(body)) for body in bodies]

    assert records_of(b"".join(calls), cuts) == [one[4:] for one in calls]


@given(st.binary(max_size=300), st.lists(st.integers(0, 800), max_size=20))
def test_after_garbage_the_next_call_is_found(garbage: bytes, cuts: list[int]) -> None:
    calls = [call(nfs.NUMBER, 1, opaque(b"one")), call(nfs.NUMBER, 1, opaque(b"two"))]

    found = records_of(garbage + b"".join(calls), cuts)

    assert found[-1:] == [calls[1][4:]]


@given(st.integers(1, 2000))
def test_a_write_that_broke_off_is_not_completed_by_what_comes_next(length: int) -> None:
    broken = call(nfs.NUMBER, 7, opaque(b"\0") + u64(0) + u32(2048) + u32(0) + opaque(b"d" * 2048), xid=5)
    again = [call(nfs.NUMBER, 1, opaque(b"\0" * number)) for number in range(40)]

    found = records_of(broken[:length] + b"".join(again), [])

    assert all(len(record) < 1000 for record in found)
    assert again[-1][4:] in found


def test_a_file_that_holds_a_call_is_believed_when_it_comes_again() -> None:
    inside = call(nfs.NUMBER, 1, opaque(b"x"))
    write = call(nfs.NUMBER, 7, opaque(b"\0") + u64(0) + u32(0) + u32(0) + opaque(b"d" * 40 + inside), xid=6)

    assert write[4:] in records_of(write + write, [])


# ------------------------------------------------------------------------------------------------------ the list


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    shares = [Shared(number=3, folder="/a,b", at="/work/ü\n", write=False)]
    save(tmp_path / "shares.json", shares)

    assert load(tmp_path / "shares.json") == shares


def test_folders_come_and_go_while_it_runs(tmp_path: Path, folder: Path) -> None:
    listed = tmp_path / "shares.json"
    save(listed, [])
    exports = Exports(listed)
    assert exports.tree(0) is None
    save(listed, [Shared(number=0, folder=str(folder), at="/work/a", write=True)])
    assert exports.tree(0) is not None
    time.sleep(0.02)
    save(listed, [])
    exports.rest()

    assert exports.tree(0) is None


def test_a_closed_file_gives_its_space_back(client: Client, folder: Path) -> None:
    client.read(client.handle("a.txt"))
    (folder / "a.txt").unlink()
    client.tree.close_idle(0)

    open_files = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert not any(path.is_relative_to(folder) for path in open_files if path.name.startswith("a.txt"))


def test_directories_are_what_they_are(client: Client) -> None:
    found = client.getattr(client.handle("sub"))

    assert (found.kind, stat.S_IMODE(found.mode)) == (2, 0o755)
