"""The .box file: a tar of a few files, plain or gzipped, whose bytes depend on nothing but them."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping

from mlvm.box.recipe import Recipe, Scratch
from mlvm.image.tree import SOURCE_DATE

_RECORD = 20 * tarfile.BLOCKSIZE


def make_tar(members: Mapping[str, Recipe], *, scratch: Scratch) -> Recipe:
    """Return the tar of `members`, in their order; all are root's, readable by all, and of one date."""
    tar = Recipe(scratch)
    for name, content in members.items():
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.mode = content.size, SOURCE_DATE, 0o644
        # Plain ustar as long as that can say it: sizes below 8 GiB, names of 100 ASCII letters.
        tar.data(entry.tobuf(format=tarfile.GNU_FORMAT))
        tar.recipe(content)
        tar.align(tarfile.BLOCKSIZE)
    tar.zeros(2 * tarfile.BLOCKSIZE)
    tar.align(_RECORD)
    return tar
