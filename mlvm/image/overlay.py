"""The overlay disk: where a machine's own changes go.

A sparse raw file with an ext4 file system, made in a blink whatever its size, since the tables are written by the
guest when it needs them.
"""

from __future__ import annotations

from pathlib import Path

from mlvm.files import temporary_beside
from mlvm.image.tools import run_tool

KIB = 1024


def make_overlay(path: Path, *, size: int, tools: Path) -> None:
    """Make an empty overlay disk of `size` bytes at `path`, whole or not at all."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as stream:
            stream.truncate(size)
        temporary.chmod(0o600)
        options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
        run_tool(
            tools,
            "usr/sbin/mke2fs",
            [
                "-q",
                "-F",
                "-t",
                "ext4",
                "-m",
                "0",
                "-L",
                "overlay",
                "-E",
                options,
                temporary,
                f"{size // KIB}k",
            ],
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
