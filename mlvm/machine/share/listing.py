"""Listings of folders that go on where they were, whatever comes and goes meanwhile.

A cookie, by which a client says where it is, is a digest of a name, and entries come in that order.
"""

from __future__ import annotations

import hashlib
import os
import time

from mlvm.machine.share.tree import Node, Tree

Entries = list[tuple[int, bytes, int]]
#: Listings that are kept, and nanoseconds for which a folder must have been at rest: its time of change is too coarse.
KEPT, AT_REST = 32, 10**9


class Listings:
    """The last listings, as long as their folders do not change."""

    def __init__(self) -> None:
        self._kept: dict[Node, tuple[int, Entries]] = {}

    def entries(self, tree: Tree, folder: Node) -> Entries:
        """Return (cookie, name, inode) of a folder's entries, by their cookies."""
        changed = tree.status(folder).st_mtime_ns
        kept = self._kept.get(folder)
        if kept is not None and kept[0] == changed and time.time_ns() - changed > AT_REST:
            return kept[1]
        with tree.listing(folder) as found:
            names = [(os.fsencode(entry.name), entry.inode()) for entry in found]
        entries = sorted((_cookie(name), name, inode) for name, inode in names)
        if len(self._kept) >= KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[folder] = (changed, entries)
        return entries


def _cookie(name: bytes) -> int:
    """Return the place of a name among all names; the first three are special."""
    return (int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 2) + 3


def entries_after(entries: Entries, cookie: int) -> Entries:
    """Return the entries behind a cookie."""
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if entries[middle][0] <= cookie:
            low = middle + 1
        else:
            high = middle
    return entries[low:]
