"""NFS version 3 (RFC 1813) over shared folders.

An answer is a status and, whatever came of it, the attributes that the client's cache lives by. What is written is the
host's as soon as the answer is sent: it survives the end of the guest, of QEMU and of this server, and is on the disk
when the host's kernel puts it there. A client would ask for more at every closing of a file, and each time wait for the
disk.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from mlvm.machine.share.attributes import FORBIDDEN_BITS, Changes, Owner, before, read_changes
from mlvm.machine.share.listing import Listings, entries_after
from mlvm.machine.share.outcome import EMPTY, NOT_SYNC, NOTSUPP, OK, STALE, TOOSMALL, number_of
from mlvm.machine.share.rpc import Program
from mlvm.machine.share.tree import Node, StaleError, Tree
from mlvm.machine.share.xdr import Reader, opaque, u32, u64

NUMBER, VERSION = 100003, 3
#: Bytes of one READ or WRITE.
TRANSFER = 1 << 20
NAME, PATH, HANDLE = 255, 4096, 64
#: CREATE (exclusively), and all that would go wrong if it was done again.
ONCE = frozenset({2, 8, 9, 10, 12, 13, 14, 15})

UNCHECKED, GUARDED, EXCLUSIVE = 0, 1, 2
FILE_SYNC = 2


class Files:
    """The procedures, over the trees that there are now."""

    def __init__(self, trees: Callable[[int], Tree | None]) -> None:
        self._tree_called = trees
        self._owner = Owner()
        #: Tells a client whether the server is the one that it has written to.
        self._verifier = os.urandom(8)
        self._listings = Listings()

    def program(self) -> Program:
        """Return the RPC program."""
        return Program(
            number=NUMBER,
            version=VERSION,
            procedures={
                0: lambda _: b"",
                **{key: self._safely(do) for key, do in self._procedures().items()},
            },
        )

    def _procedures(self) -> Mapping[int, Callable[[Reader], bytes]]:
        return {
            1: self._getattr, 2: self._setattr, 3: self._lookup, 4: self._access, 5: self._readlink, 6: self._read,
            7: self._write, 8: self._create, 9: self._mkdir, 10: self._symlink, 11: self._mknod, 12: self._remove,
            13: self._rmdir, 14: self._rename, 15: self._link, 16: self._readdir, 17: self._readdirplus,
            18: self._fsstat, 19: self._fsinfo, 20: self._pathconf, 21: self._commit,
        }  # fmt: skip

    def _safely(self, perform: Callable[[Reader], bytes]) -> Callable[[Reader], bytes]:
        """Answer an error of the host with its number, and no attributes."""
        empty = EMPTY.get(getattr(perform, "__name__", ""), u32(0))

        def safe(call: Reader) -> bytes:
            try:
                return perform(call)
            except StaleError:
                return u32(STALE) + empty
            except OSError as failed:
                return u32(number_of(failed)) + empty

        return safe

    # ---------------------------------------------------------------------------------------------- arguments

    def _node(self, call: Reader) -> tuple[Tree, Node]:
        handle = call.opaque(HANDLE)
        tree = self._tree_called(handle[0]) if handle else None
        if tree is None:
            raise StaleError()
        return tree, tree.node(handle)

    def _entry(self, call: Reader) -> tuple[Tree, Node, bytes]:
        """Read a folder and a name in it."""
        tree, folder = self._node(call)
        return tree, folder, self._name(call)

    def _name(self, call: Reader) -> bytes:
        name = call.opaque(PATH)
        if len(name) > NAME:
            raise OSError(errno.ENAMETOOLONG, "")
        if b"/" in name or b"\0" in name or name in {b"", b".", b".."}:
            raise OSError(errno.EINVAL, "")
        return name

    def _writable(self, tree: Tree) -> None:
        if not tree.write:
            raise OSError(errno.EROFS, "")

    # ---------------------------------------------------------------------------------------------- results

    def _attributes(self, tree: Tree, found: os.stat_result) -> bytes:
        return self._owner.fattr(found, tree.number, found.st_ino)

    def _after(self, tree: Tree, node: Node) -> bytes:
        """Write a `post_op_attr`."""
        try:
            return u32(1) + self._attributes(tree, tree.status(node))
        except OSError:
            return u32(0)

    def _changed(self, tree: Tree, node: Node, was: os.stat_result | None) -> bytes:
        """Write a `wcc_data`."""
        return before(was) + self._after(tree, node)

    def _made(self, tree: Tree, folder: Node, name: bytes, was: os.stat_result) -> bytes:
        """Write what is answered to everything that makes an entry."""
        found = os.stat(name, dir_fd=tree.folder_of(folder), follow_symlinks=False)
        node = tree.child(folder, name, found.st_ino)
        made = u32(1) + opaque(node.handle) + u32(1) + self._attributes(tree, found)
        return u32(OK) + made + self._changed(tree, folder, was)

    # ---------------------------------------------------------------------------------------------- looking

    def _getattr(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        return u32(OK) + self._attributes(tree, tree.status(node))

    def _lookup(self, call: Reader) -> bytes:
        tree, folder = self._node(call)
        name = call.opaque(PATH)
        if name in {b".", b".."}:
            node = folder if name == b"." else folder.parent or folder
            return u32(OK) + opaque(node.handle) + self._after(tree, node) + self._after(tree, folder)
        if b"/" in name or b"\0" in name or not name:
            raise OSError(errno.EINVAL, "")
        try:
            found = os.stat(name, dir_fd=tree.folder_of(folder), follow_symlinks=False)
        except OSError as failed:
            return u32(number_of(failed)) + self._after(tree, folder)
        node = tree.child(folder, name, found.st_ino)
        return b"".join(
            (u32(OK), opaque(node.handle), u32(1), self._attributes(tree, found), self._after(tree, folder))
        )

    def _access(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        wanted, found = call.u32(), tree.status(node)
        granted = self._owner.may(found, wanted, write=tree.write)
        return u32(OK) + u32(1) + self._attributes(tree, found) + u32(granted)

    def _readlink(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        if node.parent is None:
            raise OSError(errno.EINVAL, "")
        target = os.readlink(node.name, dir_fd=tree.folder_of(node.parent))
        return u32(OK) + self._after(tree, node) + opaque(os.fsencode(target))

    def _read(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        offset, count = call.u64(), call.u32()
        descriptor = tree.file_of(node, write=False)
        data = os.pread(descriptor, min(count, TRANSFER), min(offset, (1 << 63) - 1))
        found = os.fstat(descriptor)
        end = offset + len(data) >= found.st_size
        return b"".join(
            (u32(OK), u32(1), self._attributes(tree, found), u32(len(data)), u32(end), opaque(data))
        )

    # ---------------------------------------------------------------------------------------------- changing

    def _setattr(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        changes = read_changes(call)
        guard = (call.u32(), call.u32()) if call.u32() else None
        was = tree.status(node)
        try:
            self._writable(tree)
            if guard is not None and guard != divmod(was.st_ctime_ns, 1_000_000_000):
                return u32(NOT_SYNC) + self._changed(tree, node, was)
            self._apply(tree, node, changes, was)
        except OSError as failed:
            return u32(number_of(failed)) + self._changed(tree, node, was)
        return u32(OK) + self._changed(tree, node, was)

    def _apply(self, tree: Tree, node: Node, changes: Changes, was: os.stat_result) -> None:
        owner = self._owner
        if changes.uid not in {None, owner.shown_uid(was.st_uid)} or changes.gid not in {
            None,
            owner.shown_gid(was.st_gid),
        }:
            raise OSError(errno.EPERM, "")
        if changes.size is not None:
            if stat.S_ISDIR(was.st_mode):
                raise OSError(errno.EISDIR, "")
            os.ftruncate(tree.file_of(node, write=True), min(changes.size, (1 << 63) - 1))
        if changes.mode is not None and not stat.S_ISLNK(was.st_mode):
            self._chmod(tree, node, changes.mode & 0o7777 & ~FORBIDDEN_BITS)
        if changes.atime is not None or changes.mtime is not None:
            now = time.time_ns()
            times = (changes.atime, was.st_atime_ns), (changes.mtime, was.st_mtime_ns)
            wanted = tuple(now if new == -1 else old if new is None else new for new, old in times)
            if node.parent is None:
                os.utime(f"/proc/self/fd/{tree.folder_of(node)}", ns=(wanted[0], wanted[1]))
            else:
                place = tree.folder_of(node.parent)
                os.utime(node.name, ns=(wanted[0], wanted[1]), dir_fd=place, follow_symlinks=False)

    def _chmod(self, tree: Tree, node: Node, mode: int) -> None:
        """Change a mode by way of a descriptor, since a name could be a link by now."""
        if node.parent is None:
            Path(f"/proc/self/fd/{tree.folder_of(node)}").chmod(mode)
            return
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(node.name, flags, dir_fd=tree.folder_of(node.parent))
        try:
            if os.fstat(descriptor).st_ino != node.inode:
                raise StaleError()
            Path(f"/proc/self/fd/{descriptor}").chmod(mode)
        finally:
            os.close(descriptor)

    def _write(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        offset, count, _ = call.u64(), call.u32(), call.u32()
        data = call.opaque(TRANSFER)[:count]
        self._writable(tree)
        descriptor = tree.file_of(node, write=True)
        was = os.fstat(descriptor)
        view, at = memoryview(data), min(offset, (1 << 63) - 1 - len(data))
        while view:
            written = os.pwrite(descriptor, view, at)
            view, at = view[written:], at + written
        found = os.fstat(descriptor)
        return b"".join(
            (u32(OK), before(was), u32(1), self._attributes(tree, found),
             u32(len(data)), u32(FILE_SYNC), self._verifier)
        )  # fmt: skip

    def _create(self, call: Reader) -> bytes:
        tree, folder, name = self._entry(call)
        self._writable(tree)
        how = call.u32()
        changes = Changes() if how == EXCLUSIVE else read_changes(call)
        mark = struct.unpack(">II", call.fixed(8)) if how == EXCLUSIVE else (0, 0)
        was, place = tree.status(folder), tree.folder_of(folder, surely=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        mode = 0o644 if changes.mode is None else changes.mode & 0o7777 & ~FORBIDDEN_BITS
        new = True
        try:
            descriptor = os.open(name, flags | os.O_EXCL, mode, dir_fd=place)
        except FileExistsError:
            new = False
            found = os.stat(name, dir_fd=place, follow_symlinks=False)
            mine = how == EXCLUSIVE and (int(found.st_atime), int(found.st_mtime)) == mark
            if how != UNCHECKED and not mine:
                raise
            node = tree.child(folder, name, found.st_ino)
            if changes.size is not None:
                os.ftruncate(tree.file_of(node, write=True), changes.size)
            return self._made(tree, folder, name, was)
        if new:
            os.fchmod(descriptor, mode)  # the guest has applied its umask, ours has nothing to say
            if how == EXCLUSIVE:
                os.utime(descriptor, ns=(mark[0] * 10**9, mark[1] * 10**9))
            node = tree.child(folder, name, os.fstat(descriptor).st_ino)
            tree.keep(node, descriptor, write=True)
        return self._made(tree, folder, name, was)

    def _mkdir(self, call: Reader) -> bytes:
        tree, folder, name = self._entry(call)
        self._writable(tree)
        changes, was = read_changes(call), tree.status(folder)
        mode = 0o755 if changes.mode is None else changes.mode & 0o7777 & ~FORBIDDEN_BITS
        os.mkdir(name, mode, dir_fd=tree.folder_of(folder, surely=True))
        found = os.stat(name, dir_fd=tree.folder_of(folder), follow_symlinks=False)
        with suppress(OSError):
            self._chmod(tree, tree.child(folder, name, found.st_ino), mode)
        return self._made(tree, folder, name, was)

    def _symlink(self, call: Reader) -> bytes:
        tree, folder, name = self._entry(call)
        self._writable(tree)
        read_changes(call)
        target, was = call.opaque(PATH), tree.status(folder)
        os.symlink(target, name, dir_fd=tree.folder_of(folder, surely=True))
        return self._made(tree, folder, name, was)

    def _mknod(self, call: Reader) -> bytes:
        """Make no devices, pipes or sockets on the host."""
        tree, folder, _ = self._entry(call)
        return u32(NOTSUPP) + self._changed(tree, folder, None)

    def _remove(self, call: Reader) -> bytes:
        tree, folder, name = self._entry(call)
        self._writable(tree)
        was, place = tree.status(folder), tree.folder_of(folder, surely=True)
        found = os.stat(name, dir_fd=place, follow_symlinks=False)
        os.unlink(name, dir_fd=place)
        tree.forget(found.st_ino)
        return u32(OK) + self._changed(tree, folder, was)

    def _rmdir(self, call: Reader) -> bytes:
        tree, folder, name = self._entry(call)
        self._writable(tree)
        was, place = tree.status(folder), tree.folder_of(folder, surely=True)
        found = os.stat(name, dir_fd=place, follow_symlinks=False)
        os.rmdir(name, dir_fd=place)
        tree.forget(found.st_ino)
        return u32(OK) + self._changed(tree, folder, was)

    def _rename(self, call: Reader) -> bytes:
        tree, folder, name = self._entry(call)
        other, target, new = self._entry(call)
        self._writable(tree)
        if other is not tree:
            raise OSError(errno.EXDEV, "")
        was, would = tree.status(folder), tree.status(target)
        place, goal = tree.folder_of(folder, surely=True), tree.folder_of(target, surely=True)
        moved = os.stat(name, dir_fd=place, follow_symlinks=False).st_ino
        replaced = None
        with suppress(FileNotFoundError):
            replaced = os.stat(new, dir_fd=goal, follow_symlinks=False).st_ino
        os.rename(name, new, src_dir_fd=place, dst_dir_fd=goal)
        if replaced not in {None, moved}:
            tree.forget(int(replaced or 0))
        tree.moved(moved, target, new)
        return u32(OK) + self._changed(tree, folder, was) + self._changed(tree, target, would)

    def _link(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        other, folder, name = self._entry(call)
        self._writable(tree)
        if other is not tree or node.parent is None:
            raise OSError(errno.EXDEV, "")
        was = tree.status(folder)
        os.link(
            node.name, name, src_dir_fd=tree.folder_of(node.parent), dst_dir_fd=tree.folder_of(folder),
            follow_symlinks=False,
        )  # fmt: skip
        return u32(OK) + self._after(tree, node) + self._changed(tree, folder, was)

    def _commit(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        return u32(OK) + self._changed(tree, node, None) + self._verifier

    # ---------------------------------------------------------------------------------------------- folders

    def _readdir(self, call: Reader) -> bytes:
        tree, folder = self._node(call)
        cookie, _, most = call.u64(), call.fixed(8), call.u32()
        return self._list(tree, folder, cookie, names=most, most=most, plus=False)

    def _readdirplus(self, call: Reader) -> bytes:
        tree, folder = self._node(call)
        cookie, _, names, most = call.u64(), call.fixed(8), call.u32(), call.u32()
        return self._list(tree, folder, cookie, names=names, most=most, plus=True)

    def _list(self, tree: Tree, folder: Node, after: int, *, names: int, most: int, plus: bool) -> bytes:
        parent = folder.parent or folder
        own = tree.status(folder).st_ino
        special = [(1, b".", own), (2, b"..", parent.inode or own)]
        entries = [one for one in special if one[0] > after] + entries_after(
            self._listings.entries(tree, folder), after
        )
        parts = [u32(OK), self._after(tree, folder), bytes(8)]
        size, listed = sum(map(len, parts)) + 8, 0
        for cookie, name, inode in entries:
            part = u32(1) + u64(inode) + opaque(name) + u64(cookie)
            listed += len(part)
            if plus:
                part += self._entry_plus(tree, folder, name)
            size += len(part)
            if size > most or listed > names:
                break
            parts.append(part)
        else:
            return b"".join((*parts, u32(0), u32(1)))
        if len(parts) == 3:
            return u32(TOOSMALL) + self._after(tree, folder)
        return b"".join((*parts, u32(0), u32(0)))

    def _entry_plus(self, tree: Tree, folder: Node, name: bytes) -> bytes:
        """Write attributes and handle of an entry; nothing for one that is gone, or above."""
        if name in {b".", b".."}:
            return u32(0) + u32(0)
        try:
            found = os.stat(name, dir_fd=tree.folder_of(folder), follow_symlinks=False)
        except OSError:
            return u32(0) + u32(0)
        node = tree.child(folder, name, found.st_ino)
        return u32(1) + self._attributes(tree, found) + u32(1) + opaque(node.handle)

    # ---------------------------------------------------------------------------------------------- the whole

    def _fsstat(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        found = os.statvfs(tree.folder_of(tree.root))
        size = found.f_frsize
        numbers = (found.f_blocks * size, found.f_bfree * size, found.f_bavail * size,
                   found.f_files, found.f_ffree, found.f_favail)  # fmt: skip
        return u32(OK) + self._after(tree, node) + b"".join(map(u64, numbers)) + u32(0)

    def _fsinfo(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        sizes = (TRANSFER, TRANSFER, 4096, TRANSFER, TRANSFER, 4096, 64 * 1024)
        tail = (
            u64((1 << 63) - 1) + u32(0) + u32(1) + u32(0x1B)
        )  # links, symbolic links, one answer fits all, times
        return u32(OK) + self._after(tree, node) + b"".join(map(u32, sizes)) + tail

    def _pathconf(self, call: Reader) -> bytes:
        tree, node = self._node(call)
        return u32(OK) + self._after(tree, node) + b"".join(map(u32, (32000, NAME, 1, 1, 0, 1)))
