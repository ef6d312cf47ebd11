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
from functools import cache
from itertools import islice
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
#: Bytes of source that are worth a start of the interpreter, which takes as long as compiling a tenth of that.
_BATCH = 2 << 20


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
    """Return the packages of the system that its own bare interpreter needs."""
    python = re.escape(lock.system_python)
    wanted = re.compile(rf"(lib)?python{python}-minimal|libc6|libexpat1|zlib1g")
    return tuple(package for package in lock.system if wanted.fullmatch(package.name))


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiler:
    """Compiles with the interpreter unpacked in `folder`; `cache` keeps what wheels gave, `id` names both.

    `prefix` is where that interpreter is below `folder`: in usr, or, when it is not Debian's, in a place of its own.
    """

    folder: Path
    python: str
    id: str
    cache: Path
    workers: int
    prefix: str = "usr"

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
            kept = dict(zip(wheels, pool.map(self._read_cache, wheels), strict=True))
            missing = {
                digest: sum(tree[path].size for path in wheels[digest])
                for digest, found in kept.items()
                if found is None
            }
            fill = lambda batch: self._fill_cache(tree, {digest: wheels[digest] for digest in batch})  # noqa: E731
            list(pool.map(fill, batches(missing)))
        kept.update((digest, self._read_cache(digest)) for digest in missing)
        for digest, found in kept.items():
            if found is None:
                raise BuildError(f"`{self.cached(digest)}` changed while it was read", hint="mlvm build")
            for path in wheels[digest]:
                if path in found:
                    self._put(tree, path, found[path])

    def cached(self, wheel: str) -> Path:
        """Return where the bytecode of a wheel is kept."""
        key = json.dumps([BUILDER, SOURCE_DATE, self.id, wheel])
        return self.cache / hashlib.sha256(key.encode()).hexdigest()

    def _tag(self) -> str:
        """Return what the interpreter calls itself in names of bytecode."""
        if self.prefix == "usr":
            return "cpython-" + self.python.replace(".", "")
        return _asked_tag(tuple(map(str, self._command())), str(self._home()))

    def _home(self) -> Path:
        return self.folder / self.prefix

    def _command(self) -> list[Path | str]:
        program = f"python{self.python}"
        return Tools(self.folder).command(program, self._home() / "bin" / program)

    def _put(self, tree: Tree, path: str, content: bytes | Slice) -> None:
        """Put bytecode where the interpreter looks for it, owned like its source."""
        folder, _, name = path.rpartition("/")
        source = tree[path]
        cache = f"{folder}/__pycache__"
        if cache not in tree:
            tree.folder(cache, owner=source.uid, group=source.gid)
        node = Node(kind=Kind.FILE, mode=0o644, uid=source.uid, gid=source.gid, content=content)
        tree.put(f"{cache}/{name.removesuffix('.py')}.{self._tag()}.pyc", node)

    def _fill_cache(self, tree: Tree, wheels: Mapping[str, Sequence[str]]) -> None:
        """Compile some wheels with one start of the interpreter; each keeps its own file."""
        results = iter(
            self._compile(
                [Source(path=path, content=tree.read(path)) for paths in wheels.values() for path in paths]
            )
        )
        for digest, paths in wheels.items():
            made = list(islice(results, len(paths)))
            index = [[path, len(result)] for path, result in zip(paths, made, strict=True)]
            head = json.dumps(index).encode()
            content = b"".join((len(head).to_bytes(_INDEX_LENGTH, "little"), head, *made))
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
            *self._command(),
            "-s", "-S", "-B", *safe_path(self.python), compile_program.__file__,
        ]  # fmt: skip
        environment = {"LC_ALL": "C.UTF-8", "PYTHONHOME": str(self._home()), "PYTHONHASHSEED": "0"}
        done = process.run(command, env=environment, stdin=b"".join(frames), timeout=1800)
        return _unframed(done.stdout, count=len(frames) // 3)


def safe_path(python: str) -> tuple[str, ...]:
    """Return the option that keeps a program's folder out of sys.path; older Pythons have none."""
    return ("-P",) if int(python.rstrip("t").split(".")[1]) >= 11 else ()


@cache
def _asked_tag(command: tuple[str, ...], home: str) -> str:
    """Ask an interpreter for its tag: free-threaded builds have not always had one of their own."""
    said = "import sys; print(sys.implementation.cache_tag)"
    done = process.run([*command, "-s", "-S", "-B", "-c", said], env={"PYTHONHOME": home}, timeout=60)
    tag = done.stdout.decode().strip()
    if not re.fullmatch(r"cpython-3[0-9]+t?", tag):
        raise BuildError(f"the box's Python calls its bytecode `{tag!a}`")
    return tag


def batches(sizes: Mapping[str, int]) -> list[list[str]]:
    """Return the names of what is compiled together: the largest first and alone, the small ones by the batch."""
    found: list[list[str]] = []
    room = 0
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        if not found or sizes[name] > room:
            found.append([])
            room = _BATCH
        found[-1].append(name)
        room -= sizes[name]
    return found


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
