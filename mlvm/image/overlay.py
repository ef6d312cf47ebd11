"""A machine's own disk: an empty ext4 in a sparse file, in a few hundredths of a second.

The upper side of the guest's overlayfs. The file is all holes when mke2fs starts, so nothing is zeroed, neither now
nor by the guest's kernel later: a disk of any size costs what is written to it.
"""

from __future__ import annotations

from pathlib import Path

from mlvm import files
from mlvm.image.tools import Tools

#: What keeps mke2fs from writing, now or lazily: the holes of a new file read as zeros.
_EXTENDED = "assume_storage_prezeroed=1,nodiscard,root_owner=0:0"


def make_overlay(path: Path, size: int, tools: Path) -> None:
    """Make `path` an empty ext4 of `size` bytes with the tools in the folder `tools`; whole or not at all.

    Raises ProgramError when mke2fs fails.
    """
    temporary = files.temporary_beside(path)
    try:
        with temporary.open("xb") as stream:
            temporary.chmod(0o600)
            stream.truncate(size)
        Tools(tools).run(
            "mke2fs", ["-q", "-F", "-t", "ext4", "-m", "0", "-J", "size=16", "-E", _EXTENDED, temporary]
        )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
