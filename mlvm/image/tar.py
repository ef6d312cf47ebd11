"""Write a tree as a tar whose bytes depend on nothing but the tree.

Plain ustar headers, and a PAX header only where ustar cannot say it (long or non-ASCII names, extended attributes), so
that the bytes do not hang on the taste of one Python release's `tarfile`. No user names, no access times, no padding
to tape records beyond the two closing blocks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO

from mlvm.errors import BuildError
from mlvm.image.tree import Node, Tree
from mlvm.lock.deb import Kind

BLOCK = 512
_TYPES = {Kind.FILE: b"0", Kind.HARDLINK: b"1", Kind.SYMLINK: b"2", Kind.FOLDER: b"5", Kind.WHITEOUT: b"3"}
_LARGEST_NUMBER = 0o7777777
_LARGEST_SIZE = 0o77777777777
#: Without an entry of its own, the root would get whatever mode a reader of tars thinks of: mkfs.erofs gives it 0777.
_ROOT = Node(kind=Kind.FOLDER, mode=0o755)


def write_tar(tree: Tree, stream: IO[bytes]) -> None:
    """Write all of `tree` to `stream`, its root first. Raises BuildError when content is not as long as it says."""
    stream.write(_headers(".", _ROOT))
    for path, node in tree.ordered():
        stream.write(_headers(path, node))
        if node.kind is Kind.FILE:
            _write_content(path, node, stream)
    stream.write(bytes(2 * BLOCK))


def _write_content(path: str, node: Node, stream: IO[bytes]) -> None:
    written = 0
    for piece in node.pieces():
        stream.write(piece)
        written += len(piece)
    if written != node.size:
        raise BuildError(f"`/{path}` has {written} bytes where {node.size} were promised")
    stream.write(bytes(-written % BLOCK))


def _headers(path: str, node: Node) -> bytes:
    """Return the header block of an entry, after a PAX header if it needs one."""
    name = os.fsencode(path) + (b"/" if node.kind is Kind.FOLDER else b"")
    link = os.fsencode(node.link)
    size = node.size if node.kind is Kind.FILE else 0
    records: dict[bytes, bytes] = {b"SCHILY.xattr." + k.encode(): v for k, v in node.xattrs.items()}
    prefix, short = _split(name)
    if not short or not name.isascii():
        records[b"path"] = name
        prefix, short = b"", name[:100]
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
    if size > _LARGEST_SIZE:
        records[b"size"] = b"%d" % size
    if max(node.uid, node.gid) > _LARGEST_NUMBER:
        raise BuildError(f"`/{path}` belongs to user {node.uid}, group {node.gid}, which no tar can say")
    header = _ustar(
        short, prefix, link[:100], mode=node.mode, uid=node.uid, gid=node.gid, size=min(size, _LARGEST_SIZE),
        mtime=max(node.mtime, 0), kind=_TYPES[node.kind],
    )  # fmt: skip
    return _pax(records) + header if records else header


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Return prefix and name as ustar wants them; an empty name when it does not fit."""
    if len(name) <= 100:
        return b"", name
    cut = name.rfind(b"/", 0, 156)
    while cut > 0:
        if len(name) - cut - 1 > 100:
            break
        if name[cut + 1 :]:
            return name[:cut], name[cut + 1 :]
        cut = name.rfind(b"/", 0, cut)
    return b"", b""


def _pax(records: Mapping[bytes, bytes]) -> bytes:
    """Return a PAX extended header: itself an entry, whose content are the records."""
    body = b"".join(_pax_record(key, records[key]) for key in sorted(records))
    header = _ustar(b"PaxHeaders/0", b"", b"", mode=0o644, uid=0, gid=0, size=len(body), mtime=0, kind=b"x")
    return header + body + bytes(-len(body) % BLOCK)


def _pax_record(key: bytes, value: bytes) -> bytes:
    """Return `LENGTH key=value`, the length counting its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _ustar(
    name: bytes,
    prefix: bytes,
    link: bytes,
    *,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    kind: bytes,
) -> bytes:
    header = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0        %b%bustar\00000%b%b\0" % (
        name.ljust(100, b"\0"), mode & 0o7777, uid, gid, size, mtime, kind, link.ljust(100, b"\0"),
        bytes(32 + 32) + b"0000000\0" + b"0000000\0", prefix.ljust(155, b"\0"),
    )  # fmt: skip
    header = header.ljust(BLOCK, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]
