"""A file system tree in memory, and its one canonical tar.

Builders put files, folders and links under their paths; `write_tar` writes them sorted, with times clamped and names
of users left out, so that equal trees give equal bytes. The tar, not the file system made from it, is what is
compared and chunked.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mlvm.errors import BuildError

#: No file of an image is younger than this moment (2026-01-01 00:00:00 UTC); part of every layer's id.
SOURCE_DATE = 1_767_225_600


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One entry: `kind` is a type of `tarfile`, `mtime` in seconds, `link` the target of a link."""

    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = SOURCE_DATE
    link: str = ""
    content: bytes = b""


class Tree:
    """Paths (relative, no leading slash) and their nodes."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def __contains__(self, path: str) -> bool:
        return path in self.nodes

    def put(self, path: str, node: Node) -> None:
        """Put a node under `path`, replacing what was there. Raises BuildError for a path that leaves the tree."""
        parts = path.split("/")
        if not path or path.startswith("/") or any(part in {"", ".", ".."} for part in parts):
            raise BuildError(f"`{path}` is no path inside an image")
        self.nodes[path] = node

    def file(self, path: str, content: str | bytes, *, mode: int = 0o644, gid: int = 0, uid: int = 0) -> None:
        """Put a regular file."""
        data = content.encode() if isinstance(content, str) else content
        self.put(path, Node(mode=mode, uid=uid, gid=gid, content=data))

    def folder(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        """Put a folder, or change the one that is there."""
        self.put(path, Node(kind=tarfile.DIRTYPE, mode=mode, uid=uid, gid=gid))

    def symlink(self, path: str, target: str) -> None:
        """Put a symbolic link."""
        self.put(path, Node(kind=tarfile.SYMTYPE, mode=0o777, link=target))

    def change(self, path: str, *, mode: int, gid: int = 0) -> None:
        """Change mode and group of a file that is there; nothing happens when it is not."""
        if path in self.nodes:
            self.nodes[path] = replace(self.nodes[path], mode=mode, gid=gid)

    def content(self, path: str) -> bytes:
        """Return a regular file's bytes. Raises BuildError when there is none."""
        node = self.nodes.get(path)
        if node is None or node.kind != tarfile.REGTYPE:
            raise BuildError(f"the image's packages hold no `/{path}`")
        return node.content

    def read(self, path: str) -> str:
        """Return a regular file's text."""
        return self.content(path).decode()

    def under(self, folder: str) -> list[str]:
        """Return the sorted paths below `folder`."""
        return sorted(path for path in self.nodes if path.startswith(folder + "/"))

    def write_tar(self, target: Path) -> None:
        """Write the canonical tar: sorted, hard links last, missing parents added, times clamped."""
        for path in list(self.nodes):
            for parent in PurePosixPath(path).parents:
                if str(parent) != "." and str(parent) not in self.nodes:
                    self.folder(str(parent))
        order = sorted(self.nodes, key=lambda path: (self.nodes[path].kind == tarfile.LNKTYPE, path))
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
            for path in order:
                node = self.nodes[path]
                member = tarfile.TarInfo(path)
                member.type, member.mode, member.uid, member.gid = node.kind, node.mode, node.uid, node.gid
                member.mtime, member.linkname, member.size = (
                    min(node.mtime, SOURCE_DATE),
                    node.link,
                    len(node.content),
                )
                archive.addfile(member, io.BytesIO(node.content) if node.kind == tarfile.REGTYPE else None)
