"""What a kernel said is kept in order, bounded, and readable whatever happened to its writer."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from mlvm.agent import tape

FRAMES = st.lists(st.binary(max_size=200), max_size=6)


@settings(deadline=None)
@given(st.lists(FRAMES, max_size=30))
def test_what_is_written_is_read(said: list[list[bytes]]) -> None:
    with TemporaryDirectory() as folder, closing(tape.Tape(folder)) as written:
        numbers = [written.append(tape.UNHEARD, frames) for frames in said]

        read = written.read(0)

    assert numbers == list(range(1, len(said) + 1))
    assert [(m.number, m.flags, m.frames) for m in read] == [
        (number, tape.UNHEARD, frames) for number, frames in zip(numbers, said, strict=True)
    ]


@settings(deadline=None)
@given(st.lists(FRAMES, min_size=1, max_size=40))
def test_the_newest_are_kept_and_the_bound_holds(said: list[list[bytes]]) -> None:
    with TemporaryDirectory() as folder, closing(tape.Tape(folder, limit=4096)) as written:
        for frames in said:
            written.append(0, frames)

        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        numbers = [message.number for message in written.read(0)]

    assert size <= 4096
    assert numbers == list(range(numbers[0], len(said) + 1))


@settings(deadline=None)
@given(st.lists(FRAMES, min_size=1, max_size=5), st.data())
def test_a_writer_killed_in_the_middle_spoils_only_the_last(
    said: list[list[bytes]], data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder, closing(tape.Tape(folder)) as written:
        for frames in said[:-1]:
            written.append(0, frames)
        whole = Path(folder, tape.NEWER).stat().st_size
        written.append(0, said[-1])
        content = Path(folder, tape.NEWER).read_bytes()
    cut = data.draw(st.integers(whole, len(content) - 1))

    assert [m.frames for m in tape.parse(content[:cut])] == said[:-1]


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_foreign_bytes_are_no_messages_and_no_error(content: bytes) -> None:
    assert all(message.frames is not None for message in tape.parse(content))


def test_a_message_larger_than_a_file_is_counted_and_not_kept(tmp_path: Path) -> None:
    with closing(tape.Tape(str(tmp_path), limit=4096)) as written:
        written.append(0, [b"small"])
        written.append(0, [b"x" * 4096])
        written.append(0, [b"after"])

        assert [(m.number, m.frames) for m in written.read(0)] == [(1, [b"small"]), (3, [b"after"])]
