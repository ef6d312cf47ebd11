"""The pinned file system tools: unpacked from the lock's .debs, run through their own loader.

mkfs.erofs, mke2fs and depmod of whatever release the host has would make other bytes. These come with their own C
library, so they run on any Linux of the architecture, and see an empty environment, since some of them read
SOURCE_DATE_EPOCH or the locale.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlvm.image.debian import merged_path
from mlvm.lock.deb import read_data
from mlvm.process import run

LOADER = "usr/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PATH": "/nonexistent"}


def unpack_tools(debs: Iterable[Path], folder: Path) -> None:
    """Unpack programs and libraries of the tools' .debs into `folder`."""
    for deb in debs:
        for entry in read_data(deb):
            path = folder / merged_path(entry.path)
            if not entry.path.startswith(
                ("usr/bin", "usr/sbin", "sbin", "bin", "lib", "usr/lib", "lib64", "etc/mke2fs")
            ):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == tarfile.SYMTYPE and not path.is_symlink() and not path.exists():
                path.symlink_to(entry.link)
            elif entry.kind == tarfile.REGTYPE:
                path.write_bytes(entry.content)
                path.chmod(entry.mode | 0o600)
    loader = folder / LOADER
    if not loader.exists():  # a relative link that pointed through an unmerged path
        loader.parent.mkdir(parents=True, exist_ok=True)
        loader.unlink(missing_ok=True)
        loader.symlink_to(Path("../..") / LIBRARIES / "ld-linux-x86-64.so.2")


def run_tool(folder: Path, program: str, arguments: Sequence[str | Path]) -> bytes:
    """Run a pinned tool (`usr/bin/mkfs.erofs`) and return what it wrote. Raises ProgramError."""
    command = [
        folder / LOADER,
        "--library-path",
        folder / LIBRARIES,
        folder / program,
        *arguments,
    ]
    return run(command, env={**ENVIRONMENT, "MKE2FS_CONFIG": str(folder / "etc/mke2fs.conf")}).stdout
