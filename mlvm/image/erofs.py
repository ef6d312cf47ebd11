"""Turn a tree into an erofs file system image with the pinned mkfs.erofs.

Uncompressed: the digest then depends on no compressor, machines that run side by side share the page cache, and it
is the quickest to make and to read. `-T` would give its time to every file too, were it not for `--mkfs-time`.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from pathlib import Path

from mlvm.image.tar import write_tar
from mlvm.image.tools import Tools
from mlvm.image.tree import SOURCE_DATE, Node, Tree
from mlvm.lock.deb import Kind

#: Layers are told apart by their disks' serials; the UUID only must be the same each time.
_NAMESPACE = uuid.UUID("6d6c766d-0000-4000-8000-000000000000")


def make_erofs(tree: Tree, path: Path, *, name: str, tools: Tools) -> None:
    """Write `tree` as a file system called `name` to `path`; the tar goes through a pipe, and is never on disk."""
    # mkfs.erofs keeps the files' bytes at the far end of its output first, then puts them in their place.
    _require_space(path.parent, sum(_room(node) for _, node in tree.ordered()) * 9 // 4)
    options = [f"-T{SOURCE_DATE}", "--mkfs-time", "--preserve-mtime", "-U", str(uuid.uuid5(_NAMESPACE, name))]
    with tools.feed("mkfs.erofs", ["--quiet", *options, "--tar=f", path]) as stream:
        write_tar(tree, stream)


def _room(node: Node) -> int:
    """Return the bytes of whole blocks that an entry and its content take."""
    content = node.size if node.kind is Kind.FILE else 0
    return 512 + content + -content % 512


def _require_space(folder: Path, size: int) -> None:
    """Raise OSError when `size` bytes have no room: mkfs.erofs would not fail at a full disk, but wait for ever."""
    if shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
