"""A machine's own disk: an empty ext4 in a sparse file, in a few hundredths of a second.

The upper side of the guest's overlayfs. The file is all holes when mke2fs starts, so nothing is zeroed, neither now
nor by the guest's kernel later: a disk of any size costs what is written to it. It is nobody's identity, so it need not
be the same bits twice, and the host's mke2fs will do where an image brings none.
"""

from __future__ import annotations

from pathlib import Path

from mlvm import files, process
from mlvm.errors import StoreError
from mlvm.image.tools import Tools

#: Below this ext4 has no room for a journal.
SMALLEST = 32 << 20
#: What keeps mke2fs from writing, now or lazily: the holes of a new file read as zeros.
_PREZEROED = "assume_storage_prezeroed=1,nodiscard,root_owner=0:0"
#: For an mke2fs too old to believe that.
_LAZY = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"


def make_overlay(path: Path, size: int, tools: Path) -> None:
    """Make `path` an empty ext4 of `size` bytes with the tools in the folder `tools`; whole or not at all.

    Raises FileExistsError when there is something already, StoreError for a size too small, ProgramError when mke2fs
    fails.
    """
    if size < SMALLEST:
        raise StoreError(f"a disk of {size} bytes is too small", hint="put at least `disk: 32M` in mlvm.yaml")
    temporary = files.temporary_beside(path)
    try:
        with temporary.open("xb") as stream:
            temporary.chmod(0o600)
            stream.truncate(size)
        options = ["-q", "-F", "-t", "ext4", "-m", "0", "-J", "size=16", "-L", "mlvm", "-E"]
        if (tools / "usr/sbin/mke2fs").is_file():
            Tools(tools).run("mke2fs", [*options, _PREZEROED, temporary])
        else:
            process.run(["mke2fs", *options, _LAZY, temporary])
        # A link fails where a rename would replace.
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
