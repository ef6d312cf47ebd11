"""Files that are whole or absent, digests, and holds.

Nothing of mlvm is ever written under its final name: content goes to a temporary neighbour, is flushed, and is
renamed. So whatever is found under a final name is whole, whenever its writer was killed. A *hold* is mutual
exclusion between processes: the operating system's own file lock, gone with its holder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

TEMPORARY = ".tmp-"
#: Linux's request to let one file share another's blocks.
FICLONE = 0x40049409
_PIECE = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def temporary_beside(path: Path) -> Path:
    """Return an unused name in the folder of `path`, on the same file system, that `is_temporary` knows."""
    return path.with_name(f"{TEMPORARY}{path.name[:40]}-{os.getpid()}-{os.urandom(4).hex()}")


def is_temporary(path: Path) -> bool:
    """Tell whether `path` is a half-made thing of a writer (alive or dead), never to be taken for whole."""
    return path.name.startswith(TEMPORARY)


@contextmanager
def writing(path: Path, *, mode: int = 0o644, sync: bool = True) -> Iterator[IO[bytes]]:
    """Open `path` for writing so that it appears whole at the end of the block, or not at all.

    Without `sync` that holds for a kill, and not for a host that loses power: for what can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:  # noqa: PTH123  (private from its first moment)
            os.fchmod(stream.fileno(), mode)
            yield stream
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o644) -> None:
    """Write `content` to `path`: the old file or the new one is there at any moment, never a half."""
    with writing(path, mode=mode) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def copy_sparse(source: Path, target: Path, *, mode: int) -> None:
    """Make `target`, whole, a copy of `source` that takes no more room: holes stay holes.

    Where the file system can share blocks between files, nothing is copied at all.
    """
    with source.open("rb") as old, writing(target, mode=mode, sync=False) as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        except OSError:
            _copy_data(old.fileno(), new.fileno())


def _copy_data(old: int, new: int) -> None:
    size = os.fstat(old).st_size
    os.ftruncate(new, size)
    end = 0
    while end < size:
        try:
            start = os.lseek(old, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            return
        end = os.lseek(old, start, os.SEEK_HOLE)
        while start < end:
            start += os.pwrite(new, os.pread(old, min(_PIECE, end - start), start), start)


@contextmanager
def folder_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` at the end of the block, or is removed on an error.

    When somebody else made `path` meanwhile, theirs stays: for folders named by content both are the same.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        with suppress(OSError):
            _remove(temporary)


@contextmanager
def hold(
    path: Path, *, shared: bool = False, waiting: Callable[[], None] | None = None, wait: bool = True
) -> Iterator[None]:
    """Hold the file lock `path` during the block; call `waiting` once if somebody else has it now.

    Shared holders exclude only exclusive ones. Raises BlockingIOError at once with `wait=False`. The file stays:
    removing a lock file is a race.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            if waiting:
                waiting()
            fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a folder so that a kill in the middle leaves a temporary name, not half a folder."""
    doomed = temporary_beside(path)
    with suppress(FileNotFoundError):
        path.rename(doomed)
        _remove(doomed)


def _remove(folder: Path) -> None:
    """Remove a folder of ours, however it is closed to writing: that is no secret from its owner."""
    try:
        shutil.rmtree(folder)
    except PermissionError:
        folder.chmod(0o700)
        for root, folders, _ in os.walk(folder):
            for name in folders:
                if not (inner := Path(root, name)).is_symlink():
                    inner.chmod(0o700)
        shutil.rmtree(folder)


def disk_used(path: Path) -> int:
    """Bytes that `path` (file or tree) occupies on disk; 0 when it is not there.

    Sparse files count what they really take, hard links count once, and files that vanish meanwhile not at all.
    """
    inodes: dict[tuple[int, int], int] = {}
    for found in (
        path,
        *(Path(root, name) for root, folders, files in os.walk(path) for name in folders + files),
    ):
        with suppress(FileNotFoundError):
            status = found.lstat()
            inodes[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(inodes.values())


assert sys.platform != "win32", "mlvm runs on Linux and macOS; on Windows, inside WSL 2"
