"""Files are whole or absent, whoever is killed when; holds end with their holders."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import AnyStr

import pytest

from mlvm import files

NOBODY = 65534


def child(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a Python that runs `code` and says a line when it is ready."""
    started = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parent.parent)},
    )
    assert started.stdout is not None
    started.stdout.readline()
    return started


def half_then_fail(write: Callable[[AnyStr], int], half: AnyStr) -> None:
    """Write something, and fail before the rest."""
    assert write(half)
    raise ZeroDivisionError


@pytest.fixture
def children() -> Iterator[ExitStack]:
    """Programs entered here are killed and waited for at the end of the test."""
    with ExitStack() as stack:
        yield stack


def start(children: ExitStack, code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a child that does not outlive the test."""
    started = children.enter_context(child(code, *arguments))
    children.callback(started.kill)
    return started


@pytest.fixture
def as_ordinary_user() -> Iterator[Path]:
    """A folder of an ordinary user, and the rest of the test as that user: permissions mean nothing to root."""
    folder = Path(tempfile.mkdtemp(prefix="mlvm-test-"))
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        for root, folders, _ in os.walk(folder):
            for name in folders:
                Path(root, name).chmod(0o700)
        files.remove_tree(folder)


def test_sha256_of(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 300_000)

    assert files.sha256_of(tmp_path / "a") == hashlib.sha256(b"x" * 300_000).hexdigest()


@pytest.mark.parametrize("content", ["grüße\n", b"\x00\xff", ""])
def test_write_whole(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "new" / "folder" / "file"

    files.write_whole(path, content, mode=0o600)

    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.write_whole(tmp_path / "a", "x", mode=0o644)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_file_is_private_while_it_is_written(tmp_path: Path) -> None:
    with files.writing(tmp_path / "a", mode=0o644) as stream:
        (temporary,) = tmp_path.iterdir()
        assert files.is_temporary(temporary)
        stream.write(b"half")
        assert not (tmp_path / "a").exists()


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    with pytest.raises(ZeroDivisionError), files.writing(tmp_path / "a") as stream:
        half_then_fail(stream.write, b"half")

    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_long_and_foreign_names(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127)  # 254 bytes, near the limit of 255

    files.write_whole(path, "x")

    assert path.read_text() == "x"


WRITER = """
import sys
from pathlib import Path
from mlvm.files import write_whole
print(flush=True)
number = 0
while True:
    number = (number + 1) % 10
    write_whole(Path(sys.argv[1]), str(number) * 200_000)
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path, children: ExitStack) -> None:
    """Whenever it is killed, the file has one content, and all else is temporary by its name."""
    path = tmp_path / "file"
    dice = random.Random(1)
    for _ in range(8):
        writer = start(children, WRITER, path)
        time.sleep(dice.uniform(0.02, 0.06))
        writer.kill()
        writer.wait()
        others = [found for found in tmp_path.iterdir() if found != path]

        text = path.read_text()

        assert len(text) == 200_000
        assert len(set(text)) == 1
        assert all(files.is_temporary(found) for found in others)


def test_a_folder_is_whole(tmp_path: Path) -> None:
    with files.folder_whole(tmp_path / "made") as folder:
        (folder / "x").write_text("1")
        assert files.is_temporary(folder)
        assert not (tmp_path / "made").exists()

    assert (tmp_path / "made" / "x").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_failed_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.folder_whole(tmp_path / "made") as folder:
        half_then_fail((folder / "x").write_text, "1")

    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_folders_stays(tmp_path: Path) -> None:
    with files.folder_whole(tmp_path / "made") as mine:
        (mine / "x").write_text("mine")
        with files.folder_whole(tmp_path / "made") as theirs:
            (theirs / "x").write_text("theirs")

    assert (tmp_path / "made" / "x").read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_file_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("a file")

    with pytest.raises(NotADirectoryError), files.folder_whole(tmp_path / "made"):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["made"]


HOLDER = """
import sys, time
from pathlib import Path
from mlvm.files import hold
with hold(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print(flush=True)
    time.sleep(60)
"""


def test_a_hold_excludes_other_processes(tmp_path: Path, children: ExitStack) -> None:
    start(children, HOLDER, tmp_path / "lock", "exclusive")

    with pytest.raises(BlockingIOError), files.hold(tmp_path / "lock", wait=False):
        pass
    with pytest.raises(BlockingIOError), files.hold(tmp_path / "lock", wait=False, shared=True):
        pass


def test_shared_holds_go_together(tmp_path: Path, children: ExitStack) -> None:
    start(children, HOLDER, tmp_path / "lock", "shared")

    with files.hold(tmp_path / "lock", shared=True, wait=False):
        pass
    with pytest.raises(BlockingIOError), files.hold(tmp_path / "lock", wait=False):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_hold_ends_with_its_holder(tmp_path: Path, children: ExitStack, number: signal.Signals) -> None:
    holder = start(children, HOLDER, tmp_path / "lock", "exclusive")
    said: list[str] = []

    def waiting() -> None:
        said.append("waiting")
        holder.send_signal(number)

    with files.hold(tmp_path / "lock", waiting=waiting):
        pass

    assert said == ["waiting"]


def test_a_hold_excludes_other_threads(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def other() -> None:
        with files.hold(tmp_path / "lock", waiting=waits.set):
            order.append("other")

    thread = threading.Thread(target=other)
    with files.hold(tmp_path / "lock"):
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join()

    assert order == ["first", "other"]


def test_a_hold_is_not_inherited(tmp_path: Path) -> None:
    """A program started during a hold (QEMU!) must not keep it."""
    code = (
        "import subprocess, sys, os\nfrom pathlib import Path\nfrom mlvm.files import hold\n"
        "with hold(Path(sys.argv[1])):\n"
        "    started = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL)\n"
        "print(started.pid, flush=True)\nos._exit(0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parent.parent)},
    ) as parent:
        assert parent.stdout is not None
        sleeper = int(parent.stdout.readline())
    try:
        with files.hold(tmp_path / "lock", wait=False):
            pass
    finally:
        os.kill(sleeper, signal.SIGKILL)


def test_a_hold_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.hold(tmp_path / "lock"):
        raise ZeroDivisionError
    with files.hold(tmp_path / "lock", wait=False):
        pass

    assert (tmp_path / "lock").exists()


def test_remove_tree(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("x")

    files.remove_tree(tmp_path / "a")
    files.remove_tree(tmp_path / "a")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o555, 0o500, 0o000])
def test_remove_tree_of_closed_folders(as_ordinary_user: Path, mode: int) -> None:
    inner = as_ordinary_user / "a" / "b" / "c"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (inner / "link").symlink_to(as_ordinary_user)
    for folder in (inner, inner.parent):
        folder.chmod(mode)

    files.remove_tree(as_ordinary_user / "a")

    assert list(as_ordinary_user.iterdir()) == []


def test_remove_tree_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "kept")

    files.remove_tree(tmp_path / "a")

    assert (tmp_path / "kept" / "file").read_text() == "x"


def test_disk_used(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    empty = files.disk_used(tree)
    (tree / "inner" / "file").write_bytes(os.urandom(100_000))
    (tree / "again").hardlink_to(tree / "inner" / "file")
    (tree / "away").symlink_to("/usr")
    (tree / "broken").symlink_to("nowhere")
    with (tree / "sparse").open("wb") as stream:
        stream.truncate(10**9)

    used = files.disk_used(tree) - empty

    assert 100_000 <= used < 130_000
    assert files.disk_used(tree / "sparse") == 0
    assert files.disk_used(tree / "absent") == 0
