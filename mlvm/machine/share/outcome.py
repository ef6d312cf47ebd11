"""How a request ended: NFS's numbers for the host's errors, and what is answered besides."""

from __future__ import annotations

import errno

OK = 0
_NUMBERS = {
    errno.EPERM: 1, errno.ENOENT: 2, errno.EIO: 5, errno.ENXIO: 6, errno.EACCES: 13, errno.EEXIST: 17,
    errno.EXDEV: 18, errno.ENODEV: 19, errno.ENOTDIR: 20, errno.EISDIR: 21, errno.EINVAL: 22, errno.EFBIG: 27,
    errno.ENOSPC: 28, errno.EROFS: 30, errno.EMLINK: 31, errno.ENAMETOOLONG: 63, errno.ENOTEMPTY: 66,
    errno.EDQUOT: 69, errno.ESTALE: 70, errno.ELOOP: 22, errno.EMFILE: 10008, errno.ENFILE: 10008,
}  # fmt: skip
STALE, BADHANDLE, NOT_SYNC, BAD_COOKIE, NOTSUPP, TOOSMALL = 70, 10001, 10002, 10003, 10004, 10005


#: What follows the status of a failure, by procedure: the empty form of the attributes that belong there.
EMPTY = {
    "_getattr": b"",
    **dict.fromkeys(
        ("_setattr", "_write", "_create", "_mkdir", "_symlink", "_mknod", "_remove", "_rmdir", "_commit"),
        bytes(8),
    ),
    "_rename": bytes(16),
    "_link": bytes(12),
}


def number_of(failed: OSError) -> int:
    """Return NFS's number for an error of the host; an input/output error for what it has no number for."""
    return _NUMBERS.get(failed.errno or 0, 5)
