"""Bytecode made at build time, by exactly the interpreter that will read it.

Without it the first import in every new machine compiles what it imports: under emulation that made `import ipykernel`
take 28 s. The guest's interpreter is run on the host, like the file system tools, through the loader that the lock
names. A wheel's bytecode is kept in the store under the wheel's digest, so one changed wheel compiles one wheel.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlvm import files, process
from mlvm.errors import BuildError
from mlvm.image import compile_program
from mlvm.image.compile_program import HEADER, LENGTH
from mlvm.image.document import BUILDER
from mlvm.image.tools import Tools
from mlvm.image.tree import SOURCE_DATE, Node, Tree
from mlvm.lock.deb import Kind
from mlvm.lock.document import DebianPackage, Lock

_DIGEST_LENGTH = 32
_INDEX_LENGTH = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A Python source: where it will be in the guest, and its bytes."""

    path: str
    content: bytes
    mtime: int = SOURCE_DATE


@dataclass(frozen=True, slots=True)
class Slice:
    """Some bytes of a file, read when they are needed."""

    path: Path
    offset: int
    size: int

    def pieces(self) -> Iterator[bytes]:
        """Yield them."""
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            yield stream.read(self.size)


def interpreter_packages(lock: Lock) -> tuple[DebianPackage, ...]:
    """Return the packages of the system that its bare interpreter needs."""
    python = re.escape(str(lock.inputs["python"]))
    wanted = re.compile(rf"(lib)?python{python}-minimal|libc6|libexpat1|zlib1g")
    return tuple(package for package in lock.system if wanted.fullmatch(package.name))


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiler:
    """Compiles with the interpreter unpacked in `folder`; `cache` keeps what wheels gave, `id` names both."""

    folder: Path
    python: str
    id: str
    cache: Path
    workers: int

    def add_to(self, tree: Tree, *, below: str) -> None:
        """Put the bytecode of every module below a folder of `tree` beside it."""
        sources = [
            Source(path=path, content=tree.read(path), mtime=tree[path].mtime)
            for path in tree.children(below)
            if path.endswith(".py") and tree[path].kind is Kind.FILE
        ]
        share = -(-len(sources) // self.workers) or 1
        parts = [sources[start : start + share] for start in range(0, len(sources), share)]
        with ThreadPoolExecutor(self.workers) as pool:
            for part, results in zip(parts, pool.map(self._compile, parts), strict=True):
                for source, result in zip(part, results, strict=True):
                    if result:
                        self._put(tree, source.path, result)

    def add_wheels(self, tree: Tree, wheels: Mapping[str, Sequence[str]]) -> None:
        """Put the bytecode of wheels into `tree`; `wheels` are the modules' paths by the wheel's digest."""
        with ThreadPoolExecutor(self.workers) as pool:
            every = pool.map(lambda digest: self._of_wheel(digest, tree, wheels[digest]), wheels)
        for kept, paths in zip(every, wheels.values(), strict=True):
            for path in paths:
                if path in kept:
                    self._put(tree, path, kept[path])

    def cached(self, wheel: str) -> Path:
        """Return where the bytecode of a wheel is kept."""
        key = json.dumps([BUILDER, SOURCE_DATE, self.id, wheel])
        return self.cache / hashlib.sha256(key.encode()).hexdigest()

    def _put(self, tree: Tree, path: str, content: bytes | Slice) -> None:
        """Put bytecode where the interpreter looks for it, owned like its source."""
        folder, _, name = path.rpartition("/")
        tag = "cpython-" + self.python.replace(".", "")
        source = tree[path]
        cache = f"{folder}/__pycache__"
        if cache not in tree:
            tree.folder(cache, owner=source.uid, group=source.gid)
        node = Node(kind=Kind.FILE, mode=0o644, uid=source.uid, gid=source.gid, content=content)
        tree.put(f"{cache}/{name.removesuffix('.py')}.{tag}.pyc", node)

    def _of_wheel(self, digest: str, tree: Tree, paths: Sequence[str]) -> dict[str, Slice]:
        """Return a wheel's bytecode by path, compiling what is not kept, or not as it was written."""
        kept = self._read_cache(digest)
        if kept is None:
            self._fill_cache(digest, tree, paths)
            kept = self._read_cache(digest)
        if kept is None:
            raise BuildError(f"`{self.cached(digest)}` changed while it was read", hint="mlvm build")
        return kept

    def _fill_cache(self, digest: str, tree: Tree, paths: Sequence[str]) -> None:
        sources = [Source(path=path, content=tree.read(path)) for path in paths]
        results = self._compile(sources)
        index = [[source.path, len(result)] for source, result in zip(sources, results, strict=True)]
        head = json.dumps(index).encode()
        content = b"".join((len(head).to_bytes(_INDEX_LENGTH, "little"), head, *results))
        with files.writing(self.cached(digest), mode=0o444) as stream:
            stream.write(hashlib.sha256(content).digest() + content)

    def _read_cache(self, digest: str) -> dict[str, Slice] | None:
        """Return what is kept of a wheel; None when there is nothing that has the digest it begins with."""
        path = self.cached(digest)
        try:
            with path.open("rb") as stream:
                recorded = stream.read(_DIGEST_LENGTH)
                if hashlib.file_digest(stream, "sha256").digest() != recorded:
                    return None
                stream.seek(_DIGEST_LENGTH)
                length = int.from_bytes(stream.read(_INDEX_LENGTH), "little")
                index = json.loads(stream.read(length))
        except FileNotFoundError:
            return None
        offset = _DIGEST_LENGTH + _INDEX_LENGTH + length
        found = {}
        for name, size in index:
            if size:
                found[name] = Slice(path, offset, size)
            offset += size
        return found

    def _compile(self, sources: Iterable[Source]) -> list[bytes]:
        """Return the bytecode of `sources`, empty where one does not compile."""
        frames = []
        for source in sources:
            name = f"/{source.path}".encode()
            frames += [HEADER.pack(len(name), len(source.content), source.mtime), name, source.content]
        if not frames:
            return []
        command = [
            *Tools(self.folder).command(f"python{self.python}"),
            "-s", "-S", "-B", "-P", compile_program.__file__,
        ]  # fmt: skip
        environment = {"LC_ALL": "C.UTF-8", "PYTHONHOME": str(self.folder / "usr"), "PYTHONHASHSEED": "0"}
        done = process.run(command, env=environment, stdin=b"".join(frames), timeout=1800)
        return _unframed(done.stdout, count=len(frames) // 3)


def _unframed(output: bytes, *, count: int) -> list[bytes]:
    results = []
    offset = 0
    while offset < len(output):
        (length,) = LENGTH.unpack_from(output, offset)
        offset += LENGTH.size
        results.append(output[offset : offset + length])
        offset += length
    if len(results) != count or offset != len(output):
        raise BuildError(f"the guest's Python compiled {len(results)} of {count} modules and stopped")
    return results
