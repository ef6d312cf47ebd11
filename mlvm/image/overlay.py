"""The writable disk above an image's read-only layers: an empty ext4, sparse, in the machine's folder.

It is nobody's identity: every machine has its own, so it need not be the same bits twice. The image's pinned mke2fs
is taken where the image brings one, run through its own loader; else the host's.
"""

from __future__ import annotations

from pathlib import Path

from mlvm import process
from mlvm.errors import StoreError

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
_MKE2FS = "usr/sbin/mke2fs"
#: Below this ext4 has no room for its own journal.
SMALLEST = 16 * 1024 * 1024


def make_overlay(path: Path, *, size: int, tools: Path) -> None:
    """Make an empty overlay disk of `size` bytes; it takes a few MiB until the guest writes.

    `path` must not exist. Raises StoreError when there is no room, ProgramError when mke2fs fails.
    """
    if size < SMALLEST:
        raise StoreError(f"a disk of {size} bytes is too small", hint="put at least `disk: 16M` in mlvm.yaml")
    with path.open("xb") as disk:
        disk.truncate(size)
    # No time is spent now on what the guest kernel can do later, and no space kept for root.
    options = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "0",
        "-E",
        "lazy_itable_init=1,lazy_journal_init=1",
        "-L",
        "mlvm",
    ]
    process.run([*_mke2fs(tools), *options, path], env={"LC_ALL": "C.UTF-8"})


def _mke2fs(tools: Path) -> list[str]:
    """Return the words that run mke2fs."""
    if (tools / _MKE2FS).is_file() and (tools / _LOADER).is_file():
        return [str(tools / _LOADER), "--library-path", str(tools / _LIBRARIES), str(tools / _MKE2FS)]
    return [process.require_program("mke2fs")]
