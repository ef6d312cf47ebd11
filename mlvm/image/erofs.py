"""Turn a tree into an erofs file system image with the pinned mkfs.erofs.

Uncompressed: the digest then depends on no compressor, machines that run side by side share the page cache, and it
is the quickest to make and to read. `-T` would give its time to every file too, were it not for `--mkfs-time`.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from mlvm import files
from mlvm.image.tar import write_tar
from mlvm.image.tools import Tools
from mlvm.image.tree import SOURCE_DATE, Tree

#: Layers are told apart by their disks' serials; the UUID only must be the same each time.
_NAMESPACE = uuid.UUID("6d6c766d-0000-4000-8000-000000000000")
_WRITE_BUFFER = 1 << 20


def make_erofs(tree: Tree, path: Path, *, name: str, tools: Tools) -> None:
    """Write `tree` as a file system called `name` to `path`; a tar beside it comes and goes."""
    tar = files.temporary_beside(path)
    try:
        with tar.open("xb", buffering=_WRITE_BUFFER) as stream:
            write_tar(tree, stream)
        tools.run(
            "mkfs.erofs",
            [
                "--quiet", f"-T{SOURCE_DATE}", "--mkfs-time", "--preserve-mtime",
                "-U", str(uuid.uuid5(_NAMESPACE, name)), "--tar=f", path, tar,
            ],
        )  # fmt: skip
    finally:
        tar.unlink(missing_ok=True)
