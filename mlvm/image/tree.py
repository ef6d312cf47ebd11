"""A file tree in memory: what a layer will hold, before it becomes bytes.

Layers are put together here and not on disk: no folder of the host can hold root's files, device numbers or setuid
bits for an ordinary user, and a dictionary has no umask, time zone or directory order. Bytes may stay where they are
(inside a wheel) until they are written, so that a tree of gigabytes costs little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from mlvm.errors import BuildError
from mlvm.lock.deb import Kind

#: 2025-01-01: no file in an image is younger. A constant and not the lock's moment, so that locks which name the same
#: packages give the same bytes whenever they were made. It is part of every step's id.
SOURCE_DATE = 1735689600


class Content(Protocol):
    """Bytes that are read when they are needed."""

    @property
    def size(self) -> int:
        """Their number."""

    def pieces(self) -> Iterator[bytes]:
        """Yield them, from the beginning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One entry of a tree; `link` is a symlink's text, or the path whose bytes a hard link shares."""

    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = SOURCE_DATE
    link: str = ""
    content: bytes | Content = field(default=b"", repr=False)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of content bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.size

    def pieces(self) -> Iterator[bytes]:
        """Yield the content."""
        if isinstance(self.content, bytes):
            yield self.content
        else:
            yield from self.content.pieces()


class Tree:
    """Paths (no leading slash) and their nodes. Later entries replace earlier ones, as a later package's files do."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def __contains__(self, path: str) -> bool:
        return path in self.nodes

    def __getitem__(self, path: str) -> Node:
        return self.nodes[path]

    def put(self, path: str, node: Node) -> None:
        """Put any node; its time is clamped to `SOURCE_DATE`."""
        self.nodes[path] = node if node.mtime <= SOURCE_DATE else replace(node, mtime=SOURCE_DATE)

    def file(
        self, path: str, content: str | bytes | Content, *, mode: int = 0o644, owner: int = 0, group: int = 0
    ) -> None:
        """Put a regular file."""
        data = content.encode() if isinstance(content, str) else content
        self.put(path, Node(kind=Kind.FILE, mode=mode, uid=owner, gid=group, content=data))

    def folder(self, path: str, *, mode: int = 0o755, owner: int = 0, group: int = 0) -> None:
        """Put a folder."""
        self.put(path, Node(kind=Kind.FOLDER, mode=mode, uid=owner, gid=group))

    def symlink(self, path: str, target: str) -> None:
        """Put a symbolic link."""
        self.put(path, Node(kind=Kind.SYMLINK, mode=0o777, link=target))

    def read(self, path: str) -> bytes:
        """Return a file's bytes. Raises BuildError when it is not in the tree."""
        node = self.nodes.get(path)
        if node is None or node.kind is not Kind.FILE:
            raise BuildError(f"no package brings the file `/{path}`, which the image needs")
        return b"".join(node.pieces())

    def children(self, folder: str) -> list[str]:
        """Return the paths below `folder`, sorted."""
        return sorted(path for path in self.nodes if path.startswith(folder + "/"))

    def add_parents(self, *, owner: int = 0, group: int = 0) -> None:
        """Put a plain folder wherever an entry has none above it."""
        for path in list(self.nodes):
            above = path.rpartition("/")[0]
            while above and above not in self.nodes:
                self.folder(above, owner=owner, group=group)
                above = above.rpartition("/")[0]

    def ordered(self) -> Iterator[tuple[str, Node]]:
        """Yield every entry, sorted by path; hard links come last, after what they share bytes with."""
        last: list[str] = []
        for path in sorted(self.nodes):
            if self.nodes[path].kind is Kind.HARDLINK:
                last.append(path)
            else:
                yield path, self.nodes[path]
        for path in last:
            target = self.nodes.get(self.nodes[path].link)
            if target is None or target.kind is not Kind.FILE:
                raise BuildError(f"`/{path}` is a hard link to `/{self.nodes[path].link}`, which is no file")
            yield path, self.nodes[path]
