"""What the guest sees of a file's attributes, and what it may change of them.

On the host everything is done as the user who runs the machine, so the guest's ordinary user is shown as the owner of
what is theirs, and nobody as the owner of everything else. What root or the user may do in the guest is the same: what
the user may do on the host.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass

from mlvm.machine.share.network import GUEST_ID
from mlvm.machine.share.xdr import Reader, u32

NOBODY = 65534
#: What a guest may not give its files: on the host they would run with the user's rights for everybody.
FORBIDDEN_BITS = stat.S_ISUID | stat.S_ISGID
TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFBLK: 3,
    stat.S_IFCHR: 4,
    stat.S_IFLNK: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFIFO: 7,
}
READ, LOOKUP, MODIFY, EXTEND, DELETE, EXECUTE = 1, 2, 4, 8, 16, 32
_FATTR = struct.Struct(">5IQQ2IQQ6I")
_WCC = struct.Struct(">Q4I")
_BILLION = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """New attributes; None leaves what is there. Times are nanoseconds, and "now" is -1."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None


def read_changes(call: Reader) -> Changes:
    """Read a `sattr3`."""
    mode, uid, gid = (_optional(call, call.u32) for _ in range(3))
    size = _optional(call, call.u64)
    times: list[int | None] = []
    for _ in range(2):
        how = call.u32()
        times.append(call.u32() * _BILLION + call.u32() if how == 2 else -1 if how == 1 else None)
    return Changes(mode=mode, uid=uid, gid=gid, size=size, atime=times[0], mtime=times[1])


def _optional(call: Reader, read: Callable[[], int]) -> int | None:
    return read() if call.u32() else None


class Owner:
    """Who we are on the host, and so what the guest may do there."""

    def __init__(self) -> None:
        self.uid = os.geteuid()
        self.groups = frozenset({os.getegid(), *os.getgroups()})

    def shown_uid(self, uid: int) -> int:
        """Return the guest's number for a user of the host."""
        return GUEST_ID if uid == self.uid else NOBODY

    def shown_gid(self, gid: int) -> int:
        """Return the guest's number for a group of the host."""
        return GUEST_ID if gid in self.groups else NOBODY

    def may(self, status: os.stat_result, wanted: int, *, write: bool) -> int:
        """Return which of the wanted kinds of access there are."""
        mode = status.st_mode
        if self.uid == 0:
            bits = 7 if stat.S_ISDIR(mode) or mode & 0o111 else 6
        elif status.st_uid == self.uid:
            bits = mode >> 6 & 7
        else:
            bits = mode >> 3 & 7 if status.st_gid in self.groups else mode & 7
        granted = READ if bits & 4 else 0
        if bits & 2 and write:
            granted |= MODIFY | EXTEND | DELETE
        if bits & 1:
            granted |= LOOKUP | EXECUTE
        return granted & wanted

    def fattr(self, found: os.stat_result, fsid: int, inode: int) -> bytes:
        """Write a `fattr3`."""
        return _FATTR.pack(
            TYPES.get(stat.S_IFMT(found.st_mode), 1),
            found.st_mode & 0o7777,
            found.st_nlink,
            self.shown_uid(found.st_uid),
            self.shown_gid(found.st_gid),
            found.st_size,
            found.st_blocks * 512,
            os.major(found.st_rdev),
            os.minor(found.st_rdev),
            fsid,
            inode,
            *_time(found.st_atime_ns),
            *_time(found.st_mtime_ns),
            *_time(found.st_ctime_ns),
        )


def before(found: os.stat_result | None) -> bytes:
    """Write a `pre_op_attr`: by it the client knows that nobody else has changed the file meanwhile."""
    if found is None:
        return u32(0)
    return u32(1) + _WCC.pack(found.st_size, *_time(found.st_mtime_ns), *_time(found.st_ctime_ns))


def _time(nanoseconds: int) -> tuple[int, int]:
    seconds, rest = divmod(nanoseconds, _BILLION)
    return max(0, min(seconds, 0xFFFFFFFF)), rest
