"""Unpack programs of the lock's packages into a folder of the store, to be run on the host."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mlvm import files
from mlvm.download import Blobs
from mlvm.errors import BuildError
from mlvm.image.merged import merged_path
from mlvm.image.sources import read_deb
from mlvm.image.tools import Tools
from mlvm.lock.deb import Kind
from mlvm.lock.document import DebianPackage

#: Parts of the packages that no tool needs.
_LEFT_OUT = ("usr/share/", "var/", "usr/lib/systemd/", "etc/cron", "etc/systemd/")


def unpack_tools(
    packages: Sequence[DebianPackage],
    blobs: Blobs,
    target: Path,
    *,
    also: Callable[[Path], None] | None = None,
) -> Tools:
    """Unpack the programs and libraries of `packages` into the folder `target`, whole or not at all.

    `also` puts more into it before it appears. Raises BuildError.
    """
    with files.folder_whole(target) as folder:
        for package in packages:
            for entry in read_deb(package, blobs).entries:
                path = merged_path(entry.path)
                if path.startswith(_LEFT_OUT) or entry.kind is Kind.FOLDER:
                    continue
                place = folder / path
                place.parent.mkdir(parents=True, exist_ok=True)
                if entry.kind is Kind.SYMLINK:
                    _link(place, entry.link, folder)
                elif entry.kind is Kind.HARDLINK:
                    os.link(folder / merged_path(entry.link), place)
                else:
                    place.write_bytes(entry.data)
                    place.chmod(0o755 if entry.mode & 0o111 else 0o644)
        if also:
            also(folder)
    return Tools(target)


def _link(place: Path, target: str, folder: Path) -> None:
    """Make a link that stays inside `folder`: an absolute one is made relative to it."""
    if target.startswith("/"):
        target = os.path.relpath(folder / merged_path(target.lstrip("/")), place.parent)
    if not os.path.realpath(place.parent / target).startswith(os.path.realpath(folder) + "/"):
        raise BuildError(f"a tool's link `{place.name}` leads out of its folder: `{target}`")
    place.unlink(missing_ok=True)
    place.symlink_to(target)
