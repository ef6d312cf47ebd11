"""A Python of a box's own: what its archive may hold, and that it boots and answers."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import standalone_sample as standalone
from hypothesis import given
from hypothesis import strategies as st
from nbclient import NotebookClient

from mlvm.download import Blobs
from mlvm.errors import BuildError, DigestError
from mlvm.events import SILENT
from mlvm.files import write_whole
from mlvm.image.plan import plan
from mlvm.image.standalone import add_interpreter, unpack_interpreter
from mlvm.image.tree import Tree
from mlvm.kernel import kernelspec
from mlvm.lock.deb import Kind
from mlvm.lock.document import Interpreter, Lock
from mlvm.lock.interpreters import find
from mlvm.lock.python import resolve_python
from mlvm.lock.text import dumps, load
from mlvm.machine.table import provider_for
from mlvm.paths import Home, shipped
from mlvm.project import Project

Fill = Callable[[tarfile.TarFile], None]
BOOKWORM = shipped("boxes") / "python-3.11" / "mlvm.lock"


def file(archive: tarfile.TarFile, name: str, content: bytes = b"x", mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    archive.addfile(info, io.BytesIO(content))


def link(archive: tarfile.TarFile, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    archive.addfile(info)


def least(archive: tarfile.TarFile) -> None:
    file(archive, "python/bin/python3.12", b"\x7fELF", 0o755)
    file(archive, "python/lib/python3.12/os.py", b"name = 'posix'\n")


def stored(folder: Path, *fills: Fill) -> tuple[Interpreter, Blobs]:
    """An archive in a store, and the lock's line for it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for fill in fills:
            fill(archive)
    return kept(folder, stream.getvalue())


def kept(folder: Path, content: bytes) -> tuple[Interpreter, Blobs]:
    digest = hashlib.sha256(content).hexdigest()
    blobs = Blobs(folder)
    blobs.path(digest).parent.mkdir(parents=True, exist_ok=True)
    blobs.path(digest).write_bytes(content)
    return Interpreter(version="3.12.1", url="https://example.org/p.tar.gz", sha256=digest), blobs


def tree_of(folder: Path, *fills: Fill) -> Tree:
    tree = Tree()
    interpreter, blobs = stored(folder, *fills)
    add_interpreter(tree, interpreter, blobs, python="3.12")
    return tree


def test_it_has_a_place_of_its_own_and_is_roots(tmp_path: Path) -> None:
    tree = tree_of(tmp_path, least)

    program = tree["opt/mlvm/python/bin/python3.12"]
    assert (program.kind, program.mode, program.uid, program.gid) == (Kind.FILE, 0o755, 0, 0)
    assert tree["opt/mlvm/python/lib/python3.12/os.py"].mode == 0o644


def test_its_modules_are_named_for_compiling(tmp_path: Path) -> None:
    interpreter, blobs = stored(tmp_path, least, lambda a: file(a, "python/lib/python3.12/json/tool.py"))

    modules = add_interpreter(Tree(), interpreter, blobs, python="3.12")

    assert modules == [f"opt/mlvm/python/lib/python3.12/{name}" for name in ("json/tool.py", "os.py")]


@pytest.mark.parametrize(
    "name",
    [
        "lib/python3.12/test/test_os.py",
        "lib/libpython.a",
        "lib/python3.12/__pycache__/os.pyc",
        "share/man/man1/p.1",
    ],
)
def test_what_stays_out(tmp_path: Path, name: str) -> None:
    assert f"opt/mlvm/python/{name}" not in tree_of(tmp_path, least, lambda a: file(a, f"python/{name}"))


def test_links_stay_links_and_hard_links_become_files(tmp_path: Path) -> None:
    tree = tree_of(
        tmp_path, least,
        lambda a: link(a, "python/bin/python3", "python3.12"),
        lambda a: link(a, "python/bin/python", "python/bin/python3.12", tarfile.LNKTYPE),
    )  # fmt: skip

    assert tree["opt/mlvm/python/bin/python3"].link == "python3.12"
    assert tree.read("opt/mlvm/python/bin/python") == b"\x7fELF"


@pytest.mark.parametrize(
    ("fill", "complaint"),
    [
        (lambda a: file(a, "other/x"), "would be written outside of its folder"),
        (lambda a: file(a, "/python/x"), "would be written outside of its folder"),
        (lambda a: file(a, "python/../x"), "would be written outside of its folder"),
        (lambda a: link(a, "python/x", "/etc/passwd"), "leads out of its folder: `'/etc/passwd'`"),
        (lambda a: link(a, "python/lib/x", "../../x"), "leads out of its folder: `'../../x'`"),
        (
            lambda a: link(a, "python/x", "python/none", tarfile.LNKTYPE),
            "is a link to what is not in its archive",
        ),
        (lambda a: link(a, "python/x", "", tarfile.FIFOTYPE), "is neither a file nor a link"),
        (lambda a: file(a, "python/bin/python3.12"), "is in its archive twice"),
        (lambda a: [link(a, "python/d", "lib"), file(a, "python/d/x")], "is below `d`, which is no folder"),
    ],
)
def test_what_no_archive_may_hold(tmp_path: Path, fill: Fill, complaint: str) -> None:
    with pytest.raises(BuildError, match=r"^Python 3\.12\.1: ") as wrong:
        tree_of(tmp_path, least, fill)

    assert complaint in wrong.value.message


def test_an_archive_of_another_python(tmp_path: Path) -> None:
    interpreter, blobs = stored(tmp_path, least)

    with pytest.raises(BuildError) as wrong:
        add_interpreter(Tree(), interpreter, blobs, python="3.13t")

    assert wrong.value.message == "Python 3.12.1: its archive has no `python/bin/python3.13t`"


@given(content=st.binary(max_size=300))
def test_what_is_no_archive(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    interpreter, blobs = kept(tmp_path_factory.mktemp("blob"), content)

    with pytest.raises(BuildError, match="archive"):
        add_interpreter(Tree(), interpreter, blobs, python="3.12")


def test_changed_bytes_are_refused(tmp_path: Path) -> None:
    interpreter, blobs = stored(tmp_path, least)
    blobs.path(interpreter.sha256).write_bytes(b"other")

    with pytest.raises(DigestError, match="its bytes have changed"):
        unpack_interpreter(interpreter, blobs, tmp_path / "out", python="3.12")


def own_python(version: str = "3.12.1", sha256: str = "a" * 64) -> Lock:
    lock = load(BOOKWORM)
    own = Interpreter(version=version, url="https://example.org/p.tar.gz", sha256=sha256)
    return replace(lock, inputs={**lock.inputs, "python": "3.12"}, interpreter=own, image=None)


def steps(lock: Lock) -> dict[str, str]:
    return {step.name: step.id for step in plan(lock).steps}


def test_the_system_below_is_everybodys() -> None:
    debians, own = steps(load(BOOKWORM)), steps(own_python())

    assert {name for name in debians if debians[name] == own[name]} == {
        *("tools", "interpreter", "system", "modules", "vmlinuz", "initramfs"),
    }


def test_another_build_of_the_python_is_another_image() -> None:
    one, other = steps(own_python()), steps(own_python(sha256="b" * 64))

    assert {name for name in one if one[name] != other[name]} == {"own-interpreter", "python", "agent"}


@pytest.fixture
def own_project(chain_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with Python 3.12 on Debian 12, from a real standalone build or, where none is to be had, a pyenv's."""
    prefix = standalone.find_pyenv("3.12")
    if prefix is None:
        interpreter = find(chain_home).of("3.12")
    else:
        archive = standalone.packed(prefix)
        monkeypatch.setenv("MLVM_PYTHON_MIRROR", standalone.mirror(tmp_path / "mirror", prefix.name, archive))
        standalone.add_table(chain_home, "3.12", prefix.name, archive)
        interpreter = find(chain_home).of("3.12")
        (chain_home.data / "interpreters.json").unlink()
    pylock = resolve_python(
        (), python="3.12", release="bookworm", full=interpreter.version, cache_folder=tmp_path / "uv"
    )
    lock = replace(own_python(), name="own", interpreter=interpreter, python=pylock)
    folder = tmp_path / "own"
    write_whole(folder / "mlvm.yaml", 'name: own\npython: "3.12"\nmachine: {memory: 1 GiB}\nshare: []\n')
    write_whole(folder / "mlvm.lock", dumps(lock))
    return Project(folder=folder, home=chain_home)


CELL = """\
import sys, ssl, sqlite3, ctypes, importlib.util, json, os
import ipykernel
cached = importlib.util.cache_from_source(json.__file__)
assert sys.version_info[:2] == (3, 12), sys.version
assert sys.base_prefix == "/opt/mlvm/python", sys.base_prefix
assert sys.prefix == "/opt/mlvm/venv", sys.prefix
assert os.path.exists(cached) and json.__cached__ == cached
assert os.path.exists(importlib.util.cache_from_source(ipykernel.__file__))
print(*sys.version_info[:2], sep=".")
"""


@pytest.mark.heavy
@pytest.mark.boot
@pytest.mark.network
def test_it_boots_and_answers(own_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lock, build, boot, and let a cell look around; what it imports has its bytecode in the image."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    assert own_project.stale_reasons() == []
    record = own_project.up("own", frozen=True, observer=SILENT)
    kernelspec.install(own_project.spec(), own_project.folder, name="own", machine="own", prefix=tmp_path)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])

    try:
        NotebookClient(notebook, kernel_name="own", timeout=300, startup_timeout=300).execute()
    finally:
        provider_for(record).destroy(record, observer=SILENT)

    assert notebook.cells[0].outputs[0].text == "3.12\n"
