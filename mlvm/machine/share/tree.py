"""One shared folder: file handles that outlive everything, and a way from each to its file that cannot lead out.

A handle is the number of the folder and the inode numbers of a file and of the folders above it, up to the shared
one. That is enough to find the file again from nothing: so handles mean the same to the next server, after a restart,
in a restored snapshot and in a copy of the machine.

Paths are never given to the host whole. Each step opens one name in a folder that is open already, and never follows
a link: what a guest makes of its folder, however quickly it changes it, nothing outside can be reached. Links are
read by the guest and followed there.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections import OrderedDict
from dataclasses import dataclass

#: Inode numbers in a handle: it may have 64 bytes, and one is the folder's number.
CHAIN = 7
#: Seconds for which the way to a folder is believed, unless it is used to change something.
BELIEVED = 0.5
#: Open folders and files that are kept.
FOLDERS, FILES = 256, 256
#: Seconds after which a file that nobody reads or writes is closed, so that deleting it gives its space back.
IDLE = 5.0
#: Entries looked at to find a file again that is not where its handle says.
SEARCHED = 300_000
#: Handles remembered; one that was forgotten is found again.
REMEMBERED = 300_000
#: Seconds before the same file is searched for again.
SEARCH_AGAIN = 2.0


class StaleError(OSError):
    """What a handle means is not there any more."""

    def __init__(self) -> None:
        super().__init__(errno.ESTALE, os.strerror(errno.ESTALE))


@dataclass(eq=False, slots=True)
class Node:
    """A file or folder that the guest has a handle of; the shared folder itself has no parent."""

    inode: int
    parent: Node | None
    name: bytes
    handle: bytes


class Tree:
    """The files of one shared folder."""

    def __init__(self, number: int, folder: str, *, write: bool) -> None:
        self.number = number
        self.folder = folder
        self.write = write
        self.root = Node(0, None, b"", bytes([number]))
        self._nodes: dict[int, Node] = {}
        self._folders: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self._files: OrderedDict[tuple[int, bool], tuple[int, float]] = OrderedDict()
        self._missed: dict[int, float] = {}

    # ------------------------------------------------------------------------------------------------ handles

    def node(self, handle: bytes) -> Node:
        """Return what a handle means. Raises StaleError."""
        if len(handle) == 1:
            return self.root
        if len(handle) % 8 != 1 or len(handle) > 1 + 8 * CHAIN:
            raise StaleError()
        chain = struct.unpack(f">{len(handle) // 8}Q", handle[1:])
        if known := self._nodes.get(chain[0]):
            return known
        return self._find(chain)

    def child(self, parent: Node, name: bytes, inode: int) -> Node:
        """Return the node of an entry that is there now."""
        node = self._nodes.get(inode)
        if node is None:
            inodes: list[int] = [inode]
            above: Node | None = parent
            while above is not None and above.parent is not None and len(inodes) < CHAIN:
                inodes.append(above.inode)
                above = above.parent
            if len(self._nodes) >= REMEMBERED:
                self._nodes.clear()
            handle = struct.pack(f">B{len(inodes)}Q", self.number, *inodes)
            node = self._nodes[inode] = Node(inode, parent, name, handle)
        elif node.parent is not parent or node.name != name:
            node.parent, node.name = parent, name
        return node

    def forget(self, inode: int) -> None:
        """Take note that a file is gone, at least under the name that it had."""
        self._nodes.pop(inode, None)
        for write in (False, True):
            if entry := self._files.pop((inode, write), None):
                os.close(entry[0])

    def moved(self, inode: int, parent: Node, name: bytes) -> None:
        """Take note of another name."""
        if node := self._nodes.get(inode):
            node.parent, node.name = parent, name

    def _find(self, chain: tuple[int, ...]) -> Node:
        """Find a file of which nothing is known but its handle: down the chain, else by looking everywhere."""
        node: Node | None = self.root
        for inode in reversed(chain):
            node = node and self._entry_with(node, inode)
        if node is None:
            node = self._search(chain[0])
        return node

    def _entry_with(self, folder: Node, inode: int) -> Node | None:
        try:
            with self.listing(folder) as entries:
                for entry in entries:
                    if entry.inode() == inode:
                        return self.child(folder, os.fsencode(entry.name), inode)
        except OSError:
            pass
        return None

    def _search(self, inode: int) -> Node:
        """Look for an inode in the whole folder. Raises StaleError, and at once when it was missed just now."""
        now = time.monotonic()
        if now - self._missed.get(inode, -SEARCH_AGAIN) < SEARCH_AGAIN:
            raise StaleError()
        seen, waiting = 0, [self.root]
        while waiting and seen < SEARCHED:
            folder = waiting.pop()
            try:
                with self.listing(folder) as entries:
                    for entry in entries:
                        seen += 1
                        if entry.inode() == inode:
                            return self.child(folder, os.fsencode(entry.name), inode)
                        if entry.is_dir(follow_symlinks=False):
                            found = self._nodes.get(entry.inode())
                            name = os.fsencode(entry.name)
                            waiting.append(found or Node(entry.inode(), folder, name, b""))
            except OSError:
                continue
        if len(self._missed) > 1000:
            self._missed.clear()
        self._missed[inode] = now
        raise StaleError()

    # ------------------------------------------------------------------------------------------------ the way

    def folder_of(self, node: Node, *, surely: bool = False) -> int:
        """Return a descriptor of a folder, good for the names in it; `surely` looks whether it still is there."""
        entry = self._folders.get(node.inode)
        now = time.monotonic()
        if entry is not None and not surely and now - entry[1] < BELIEVED:
            self._folders.move_to_end(node.inode)
            return entry[0]
        descriptor = self._open_folder(node)
        if entry is not None:
            if os.path.sameopenfile(
                entry[0], descriptor
            ):  # somebody may have been given the old one just now
                os.close(descriptor)
                descriptor = entry[0]
            else:
                os.close(entry[0])
        self._folders[node.inode] = (descriptor, now)
        self._folders.move_to_end(node.inode)
        if len(self._folders) > FOLDERS:
            os.close(self._folders.popitem(last=False)[1][0])
        return descriptor

    def _open_folder(self, node: Node) -> int:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        if node.parent is None:
            try:
                return os.open(self.folder, flags)
            except OSError:
                raise StaleError() from None
        try:
            descriptor = os.open(node.name, flags | os.O_NOFOLLOW, dir_fd=self.folder_of(node.parent))
        except (FileNotFoundError, NotADirectoryError):
            return self._open_elsewhere(node)
        if os.fstat(descriptor).st_ino != node.inode:
            os.close(descriptor)
            return self._open_elsewhere(node)
        return descriptor

    def _open_elsewhere(self, node: Node) -> int:
        """Open a folder that somebody on the host has moved."""
        found = self._search(node.inode)
        node.parent, node.name = found.parent, found.name
        assert node.parent is not None
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(node.name, flags, dir_fd=self.folder_of(node.parent, surely=True))
        if os.fstat(descriptor).st_ino != node.inode:
            os.close(descriptor)
            raise StaleError()
        return descriptor

    def listing(self, node: Node) -> _Listing:
        """Return a context whose value are the entries of a folder."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return _Listing(os.open(b".", flags, dir_fd=self.folder_of(node)))

    def status(self, node: Node) -> os.stat_result:
        """Return the status of what a node means, wherever it is now. Raises StaleError."""
        if node.parent is None:
            return os.fstat(self.folder_of(node))
        try:
            found = os.stat(node.name, dir_fd=self.folder_of(node.parent), follow_symlinks=False)
            if found.st_ino == node.inode:
                return found
        except (FileNotFoundError, NotADirectoryError):
            pass
        for write in (True, False):  # deleted on the host while the guest works on it
            if entry := self._files.get((node.inode, write)):
                return os.fstat(entry[0])
        found_node = self._search(node.inode)
        assert found_node.parent is not None
        node.parent, node.name = found_node.parent, found_node.name
        found = os.stat(
            node.name, dir_fd=self.folder_of(found_node.parent, surely=True), follow_symlinks=False
        )
        if found.st_ino != node.inode:
            raise StaleError()
        return found

    def file_of(self, node: Node, *, write: bool) -> int:
        """Return a descriptor of an ordinary file."""
        now = time.monotonic()
        for mode in (True,) if write else (False, True):
            if entry := self._files.get((node.inode, mode)):
                self._files[node.inode, mode] = (entry[0], now)
                self._files.move_to_end((node.inode, mode))
                return entry[0]
        if node.parent is None or not stat.S_ISREG(self.status(node).st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(node.name, flags, dir_fd=self.folder_of(node.parent))
        except PermissionError:
            if not write:
                raise
            flags = flags & ~os.O_RDWR | os.O_WRONLY
            descriptor = os.open(node.name, flags, dir_fd=self.folder_of(node.parent))
        if os.fstat(descriptor).st_ino != node.inode:
            os.close(descriptor)
            raise StaleError()
        self.keep(node, descriptor, write=write)
        return descriptor

    def keep(self, node: Node, descriptor: int, *, write: bool) -> None:
        """Keep an open file for what comes next: its creator may write to it, whatever its mode says."""
        if old := self._files.pop((node.inode, write), None):
            os.close(old[0])
        self._files[node.inode, write] = (descriptor, time.monotonic())
        if len(self._files) > FILES:
            os.close(self._files.popitem(last=False)[1][0])

    def close_idle(self, seconds: float = IDLE) -> None:
        """Close files that nobody has touched for so long."""
        now = time.monotonic()
        for key in [key for key, (_, used) in self._files.items() if now - used >= seconds]:
            os.close(self._files.pop(key)[0])

    def close(self) -> None:
        """Close everything."""
        self.close_idle(0)
        while self._folders:
            os.close(self._folders.popitem()[1][0])


class _Listing:
    """The entries of a folder, whose descriptor is closed at the end of the block."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._entries = os.scandir(descriptor)

    def __enter__(self) -> os._ScandirIterator[str]:
        return self._entries

    def __exit__(self, *_: object) -> None:
        self._entries.close()
        os.close(self._descriptor)
