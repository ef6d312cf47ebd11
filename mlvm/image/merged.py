"""Where a package's path lies in a system whose /bin, /sbin and /lib are links into /usr.

Packages of the releases we build still ship some files in the old folders; dpkg writes them through the links. We
have no links to write through, so we spell the path out.
"""

from __future__ import annotations

#: Old folder -> what it is a link to.
MERGED = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64", "lib32", "libx32", "libo32")}


def merged_path(path: str) -> str:
    """Return `path` (no leading slash) with a merged folder's name spelt out."""
    first, slash, rest = path.partition("/")
    return MERGED[first] + slash + rest if first in MERGED else path
