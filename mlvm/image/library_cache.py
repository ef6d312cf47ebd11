"""/etc/ld.so.cache, which ldconfig would write: where each shared library is.

Programs start without it, but `ctypes.util.find_library` does not find a thing. The format is glibc's
`cache_file_new` (sysdeps/generic/dl-cache.h): a header, entries sorted for its binary search, and their strings.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from mlvm.image import elf
from mlvm.image.tree import Tree
from mlvm.lock.deb import Kind

PATH = "etc/ld.so.cache"
#: Folder in the tree -> how the cache spells it, in the order of Debian's ld.so.conf.
FOLDERS = {
    "usr/lib/x86_64-linux-gnu": "/lib/x86_64-linux-gnu",
    "usr/lib": "/lib",
}
_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sIIB3xI12x")
_ENTRY = struct.Struct("<iIIIQ")
_LITTLE_ENDIAN = 2
#: ELF for this C library, 64 bit.
_FLAGS = 0x0303
_LIBRARY = re.compile(r"(lib|ld-)[^/]*\.so[^/]*")


def add_library_cache(tree: Tree) -> None:
    """Write the cache of all libraries in `tree`."""
    tree.file(PATH, pack(dict(_libraries(tree))))


def pack(libraries: dict[str, str]) -> bytes:
    """Return the cache of `libraries`, name -> path."""
    names = sorted(libraries, key=_order, reverse=True)
    base = _HEADER.size + _ENTRY.size * len(names)
    strings = bytearray()
    entries = bytearray()
    for name in names:
        path = libraries[name].encode() + b"\0"
        start = base + len(strings)
        # A path ends with the name: one string serves as both.
        entries += _ENTRY.pack(_FLAGS, start + len(path) - 1 - len(name.encode()), start, 0, 0)
        strings += path
    return _HEADER.pack(_MAGIC, len(names), len(strings), _LITTLE_ENDIAN, 0) + entries + strings


def _libraries(tree: Tree) -> Iterator[tuple[str, str]]:
    """Yield each library's name and path: files, and links under the name the library gives itself."""
    seen: set[str] = set()
    for folder, spelt in FOLDERS.items():
        for path in sorted(tree.nodes):
            parent, _, name = path.rpartition("/")
            if parent != folder or name in seen or not _LIBRARY.fullmatch(name):
                continue
            content = _followed(tree, path)
            if content is None or not elf.is_elf(content):
                continue
            try:
                own = elf.soname(content) or name
            except ValueError:
                continue
            if own == name:
                seen.add(name)
                yield name, f"{spelt}/{name}"


def _followed(tree: Tree, path: str) -> bytes | None:
    """Return the bytes behind a path; links inside one folder are all that libraries use."""
    for _ in range(8):
        node = tree.nodes.get(path)
        if node is None or node.kind is Kind.FOLDER:
            return None
        if node.kind is Kind.FILE:
            return tree.read(path)
        if node.kind is Kind.HARDLINK:
            path = node.link
        elif "/" in node.link:
            return None
        else:
            path = f"{path.rpartition('/')[0]}/{node.link}"
    return None


def _order(name: str) -> list[tuple[int, int]]:
    """Return a sorting key like glibc's `_dl_cache_libcmp`: numbers by value, and after any other sign."""
    return [
        (1, int(part)) if part.isdigit() else (0, ord(part)) for part in re.findall(r"\d+|\D", name, re.ASCII)
    ]
