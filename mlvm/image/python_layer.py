"""The Python layer: a virtual environment at /opt/mlvm/venv, put together from wheels without running Python.

What an installer would do, for an interpreter that is not here: members go where the wheel says, commands get the
guest's interpreter, RECORD tells `pip` and `importlib.metadata` the truth. The environment belongs to the person, who
may add to it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from packaging.pylock import Package

from mlvm.download import Blobs
from mlvm.errors import BuildError
from mlvm.image.accounts import USER
from mlvm.image.bytecode import Compiler
from mlvm.image.editable import add_editable
from mlvm.image.environment import PYTHON, VENV, command_text
from mlvm.image.sources import checked_blob
from mlvm.image.standalone import PREFIX, add_interpreter
from mlvm.image.tree import Content, Tree
from mlvm.image.wheel import Member, Wheel, record_digest
from mlvm.lock.cuda import parted
from mlvm.lock.document import Lock

INSTALLER = b"mlvm\n"
_PROFILE = f"""\
# The box's Python comes first.
export VIRTUAL_ENV=/{VENV}
export PATH="/{VENV}/bin:$PATH"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    content: bytes | Content
    mode: int


#: Modules that get bytecode. Packages' own tests are a third of all code and hardly ever imported: whoever runs them
#: compiles them then.
COMPILED = re.compile(r".*/site-packages/(?!(.*/)?tests?/).*\.py")


def make_python(lock: Lock, blobs: Blobs, open_wheels: ExitStack, *, compiler: Compiler) -> Tree:
    """Return the tree of the Python layer; its bytes stay in the wheels, which `open_wheels` closes.

    Raises BuildError for a wheel that is not one, DigestError for one that has changed.
    """
    python = str(lock.inputs["python"])
    tree = _installed(parted(lock.python.packages)[1], python, blobs, open_wheels, compiler)
    add_editable(tree, lock)
    _environment(tree, python, home=PREFIX if lock.interpreter else "usr")
    if lock.interpreter is not None:
        modules = add_interpreter(tree, lock.interpreter, blobs, python=python)
        compiler.add_wheels(tree, {lock.interpreter.sha256: modules})
        for path in tree.children(PREFIX):
            _root_above(tree, path)
    return _with_parents(tree)


def make_cuda(lock: Lock, blobs: Blobs, open_wheels: ExitStack, *, compiler: Compiler) -> Tree:
    """Return the tree of the CUDA layer: NVIDIA's wheels in the same environment, which the guest sees as one."""
    packages = parted(lock.python.packages)[0]
    return _with_parents(_installed(packages, str(lock.inputs["python"]), blobs, open_wheels, compiler))


def _installed(
    packages: Sequence[Package], python: str, blobs: Blobs, open_wheels: ExitStack, compiler: Compiler
) -> Tree:
    tree = Tree()
    modules: dict[str, list[str]] = {}
    for package in sorted(packages, key=lambda package: package.name):
        if not package.wheels:
            raise BuildError(f"the lock has no wheel of `{package.name}`", hint="mlvm lock")
        digest = package.wheels[0].hashes["sha256"]
        path = checked_blob(package.name, digest, blobs)
        wheel = Wheel(path, name=f"{package.name} {package.version}")
        open_wheels.callback(wheel.close)
        placed = install(tree, wheel, python)
        modules[digest] = [path for path in placed if COMPILED.fullmatch(path)]
    compiler.add_wheels(tree, modules)
    return tree


def _with_parents(tree: Tree) -> Tree:
    tree.add_parents(owner=USER.uid, group=USER.gid)
    for folder in ("opt", "opt/mlvm", "etc", "etc/profile.d"):
        tree.folder(folder)
    return tree


def _root_above(tree: Tree, path: str) -> None:
    """The folders of a Python are root's, as its files are; only the environment is the person's."""
    while (path := path.rpartition("/")[0]).startswith(PREFIX):
        tree.folder(path)


def _environment(tree: Tree, python: str, *, home: str) -> None:
    """Write what makes the folder a virtual environment of the Python in `home`."""
    own = {"owner": USER.uid, "group": USER.gid}
    text = f"home = /{home}/bin\ninclude-system-site-packages = false\nversion = {python}\n"
    tree.file(f"{VENV}/pyvenv.cfg", text, **own)
    tree.folder(f"{VENV}/lib/python{python}/site-packages", **own)
    tree.symlink(f"{VENV}/lib64", "lib")
    tree.symlink(f"{VENV}/bin/python", f"/{home}/bin/python{python}")
    for name in ("python3", f"python{python}"):
        tree.symlink(f"{VENV}/bin/{name}", "python")
    tree.file("etc/profile.d/mlvm.sh", _PROFILE)


def install(tree: Tree, wheel: Wheel, python: str) -> list[str]:
    """Put one wheel's files into the environment; return their paths."""
    site = f"lib/python{python}/site-packages"
    placed: dict[str, str] = {}
    found: dict[str, _File] = {}
    for name, member in wheel.members.items():
        place = _place(wheel, name, site, python)
        script = f"{wheel.data}/scripts/" if wheel.data else None
        content, mode = _content(member, is_script=bool(script and name.startswith(script)))
        placed[name] = place
        found[place] = _File(content=content, mode=mode)
    for command, target in wheel.commands().items():
        found[f"bin/{command}"] = _File(content=command_text(target), mode=0o755)
    found[f"{site}/{wheel.dist_info}/INSTALLER"] = _File(content=INSTALLER, mode=0o644)
    record = f"{site}/{wheel.dist_info}/RECORD"
    found[record] = _File(content=_record(wheel, placed, found, site), mode=0o644)
    for place, file in found.items():
        tree.file(f"{VENV}/{place}", file.content, mode=file.mode, owner=USER.uid, group=USER.gid)
    return sorted(f"{VENV}/{place}" for place in found)


def _place(wheel: Wheel, name: str, site: str, python: str) -> str:
    """Return where a member goes, below the environment."""
    if not wheel.data or not name.startswith(wheel.data + "/"):
        return f"{site}/{name}"
    parts = name.split("/", 2)
    if len(parts) == 3:
        match parts[1]:
            case "purelib" | "platlib":
                return f"{site}/{parts[2]}"
            case "scripts":
                return f"bin/{parts[2]}"
            case "data":
                return parts[2]
            case "headers":
                return f"include/site/python{python}/{wheel.dist_info.split('-')[0]}/{parts[2]}"
    raise wheel.complaint(f"`{name}` belongs nowhere")


def _content(member: Member, *, is_script: bool) -> tuple[bytes | Content, int]:
    """Return what to write for a member; a Python script gets the environment's interpreter."""
    if not is_script:
        return member, 0o755 if member.executable else 0o644
    text = b"".join(member.pieces())
    if text.startswith(b"#!python"):
        _, end, rest = text.partition(b"\n")
        text = b"#!" + PYTHON.encode() + end + rest
    return text, 0o755


def _record(wheel: Wheel, placed: dict[str, str], found: dict[str, _File], site: str) -> bytes:
    """Return RECORD with every file where it is now, and those added."""
    digests = {row[0]: (row[1], row[2]) for row in wheel.recorded()}
    own = f"{wheel.dist_info}/RECORD"
    rows = []
    origin = {place: name for name, place in placed.items()}
    for place, file in found.items():
        path = place.removeprefix(f"{site}/") if place.startswith(f"{site}/") else f"../../../{place}"
        if isinstance(file.content, bytes):
            rows.append((path, record_digest(file.content), str(len(file.content))))
        elif origin[place] != own:
            rows.append((path, *digests.get(origin[place], ("", ""))))
    rows.append((own, "", ""))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(sorted(set(rows)))
    return text.getvalue().encode()
