"""RAM is taken out of a migration stream, and nothing else of it."""

from __future__ import annotations

import os
import struct
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlvm.errors import MachineError
from mlvm.machine.qemu.sieve import CONTINUE, EOS, PAGE, PAGE_SIZE, ZERO, Sieve

PAGES = 600
SIZE = PAGES * PAGE_SIZE
SECTION = struct.pack(">I", 2)
HEAD = b"QEVM\0\0\0\3\7\0\0\0\12pc-q35-7.2"
DEVICES = b"\x04 devices, and a \x01....\x03ram that means nothing" * 30
FOOTER = b"\x7e" + SECTION


def word(value: int) -> bytes:
    return struct.pack(">Q", value)


def block(name: str, size: int) -> bytes:
    return bytes([len(name)]) + name.encode() + word(size)


def record(offset: int, content: bytes, *, name: str = "") -> bytes:
    """A record of a page: one byte means that it is filled with that."""
    flags = (ZERO if len(content) == 1 else PAGE) | (0 if name else CONTINUE)
    named = bytes([len(name)]) + name.encode() if name else b""
    return word(offset | flags) + named + content


def stream(*sections: bytes) -> bytes:
    """A stream that saves blocks `ram` and `vga`, with these sections of pages; the last one is the end."""
    blocks = block("vga", 2 * PAGE_SIZE) + block("ram", SIZE)
    start = (
        b"\x01" + SECTION + b"\x03ram" + struct.pack(">II", 0, 4) + word((SIZE + 2 * PAGE_SIZE) | 4) + blocks
    )
    kinds = [b"\x02"] * (len(sections) - 1) + [b"\x03"]
    parts = [kind + SECTION + pages + word(EOS) + FOOTER for kind, pages in zip(kinds, sections, strict=True)]
    return HEAD + start + word(EOS) + FOOTER + b"".join(parts) + DEVICES


def sift(data: bytes, folder: Path, *, step: int = 1 << 20) -> tuple[bytes, bytes]:
    """Return what became of a stream that comes in pieces: the RAM, and the rest."""
    ram = folder / "ram"
    ram.write_bytes(b"")
    os.truncate(ram, SIZE)
    reading, writing = os.pipe()

    def feed() -> None:
        with open(writing, "wb", 0) as end:  # noqa: PTH123
            end.writelines(data[at : at + step] for at in range(0, len(data), step))

    feeder = threading.Thread(target=feed)
    feeder.start()
    with (
        open(reading, "rb") as source,  # noqa: PTH123
        ram.open("r+b") as file,
        (folder / "rest").open("wb") as rest,
    ):
        try:
            Sieve(source.fileno(), sink=rest.fileno(), ram=file.fileno(), size=SIZE).run()
        finally:
            while source.read(1 << 16):
                pass
            feeder.join()
    return ram.read_bytes(), (folder / "rest").read_bytes()


def test_pages_go_to_the_file_and_all_else_is_passed_on(tmp_path: Path) -> None:
    one, two, three = (bytes([n]) * PAGE_SIZE for n in (1, 2, 3))
    mine = record(0, one, name="ram") + record(PAGE_SIZE, two) + record(2 * PAGE_SIZE, b"\0")
    other = record(PAGE_SIZE, three, name="vga") + record(0, b"\0")

    ram, rest = sift(stream(mine, other, record(5 * PAGE_SIZE, three, name="ram")), tmp_path)

    assert ram == one + two + bytes(3 * PAGE_SIZE) + three + bytes(SIZE - 6 * PAGE_SIZE)
    assert rest == stream(b"", other, b"")


def test_what_was_never_written_stays_a_hole(tmp_path: Path) -> None:
    zeros = record(0, b"\0", name="ram") + b"".join(record(n * PAGE_SIZE, b"\0") for n in range(1, PAGES))

    sift(stream(zeros), tmp_path)

    assert (tmp_path / "ram").stat().st_blocks == 0


def test_a_page_that_is_zeros_again_is_written(tmp_path: Path) -> None:
    first = record(0, b"\1" * PAGE_SIZE, name="ram")

    ram, _ = sift(stream(first, record(0, b"\0")), tmp_path)

    assert ram == bytes(SIZE)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pages=st.lists(
        st.tuples(st.integers(0, PAGES - 1), st.integers(0, 255), st.booleans(), st.booleans()), max_size=60
    ),
    cuts=st.integers(1, 4),
    step=st.integers(900, 1 << 16),
)
def test_any_order_of_pages(
    tmp_path: Path, pages: list[tuple[int, int, bool, bool]], cuts: int, step: int
) -> None:
    """The RAM is what the last record of each page says, however the stream is cut up."""
    wanted = bytearray(SIZE)
    sections, passed = [b""] * cuts, [b""] * cuts
    block_before = ""
    for at, (anywhere, fill, filled, mine) in enumerate(pages):
        section = at * cuts // len(pages)
        name, number = ("ram", anywhere) if mine else ("vga", anywhere % 2)
        content = bytes([fill]) if filled else bytes([fill, 1]) * (PAGE_SIZE // 2)
        made = record(number * PAGE_SIZE, content, name="" if name == block_before else name)
        block_before = name
        sections[section] += made
        if mine:
            start = number * PAGE_SIZE
            wanted[start : start + PAGE_SIZE] = content * (PAGE_SIZE if filled else 1)
        else:
            passed[section] += made

    ram, rest = sift(stream(*sections), tmp_path, step=step)

    assert ram == wanted
    assert rest == stream(*passed)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (b"no stream at all", "it saves no RAM"),
        (stream(word(0x100 | CONTINUE)), "a record with flags 0x120"),
        (stream(record(SIZE, b"\0", name="ram")), f"a page beyond {SIZE}"),
        (stream(record(0, b"\1" * PAGE_SIZE, name="ram"))[:900], "it ends early"),
        (stream(b"").replace(word(SIZE), word(SIZE - PAGE_SIZE)), f"it has no RAM of {SIZE} bytes"),
        (stream(b"").replace(FOOTER, b"\x7e\0\0\0\1"), "a section does not end"),
    ],
)
def test_what_is_no_such_stream_is_refused(tmp_path: Path, broken: bytes, why: str) -> None:
    with pytest.raises(MachineError, match=f"migration stream cannot be understood: {why}"):
        sift(broken, tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), junk=st.binary(min_size=1, max_size=40))
def test_damage_is_an_error_or_harmless(tmp_path: Path, at: int, junk: bytes) -> None:
    """It never hangs and never raises anything else."""
    whole = bytearray(stream(record(0, b"\1" * 4096, name="ram"), record(4096, b"\0")))
    whole[at : at + len(junk)] = junk
    with suppress(MachineError):
        sift(bytes(whole), tmp_path)
