"""The Python layer: wheels straight into a virtual environment at /opt/mlvm/venv, without running the guest's Python.

What an installer does (PyPA's binary distribution format specification) done on a tree: files to their scheme paths,
scripts with the guest's interpreter, entry points as wrappers, RECORD rewritten. Same wheels, same bytes.
"""

from __future__ import annotations

import base64
import configparser
import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from mlvm.errors import BuildError
from mlvm.image.tree import Node, Tree

VENV = "opt/mlvm/venv"
_ENTRY_POINT = re.compile(r"(?P<module>[\w.]+):(?P<attribute>[\w.]+)\s*(\[.*\])?")
_WRAPPER = """\
#!/{venv}/bin/python
import sys
from {module} import {first}
if __name__ == '__main__':
    sys.exit({attribute}())
"""


def python_tree(wheels: Iterable[tuple[str, Path]], *, python: str) -> Tree:
    """Return the virtual environment with these wheels (file name, file) for guest Python `python` ("3.11").

    Raises BuildError for a file that is no wheel, leaves its place, or is written by two wheels with other content.
    """
    tree = Tree()
    for filename, path in wheels:
        try:
            with zipfile.ZipFile(path) as archive:
                _install(
                    archive, filename, tree, site=f"{VENV}/lib/python{python}/site-packages", python=python
                )
        except (
            zipfile.BadZipFile,
            KeyError,
            ValueError,
            EOFError,
            NotImplementedError,
            configparser.Error,
        ) as broken:
            raise BuildError(
                f"`{filename}` is not a wheel that can be installed: {broken}",
                hint="mlvm prune, then build again to download it anew",
            ) from None
    tree.file(
        f"{VENV}/pyvenv.cfg",
        f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n"
        f"executable = /usr/bin/python{python}\n",
    )
    tree.symlink(f"{VENV}/bin/python", f"/usr/bin/python{python}")
    tree.symlink(f"{VENV}/bin/python3", "python")
    tree.symlink(f"{VENV}/bin/python{python}", "python")
    tree.symlink(f"{VENV}/lib64", "lib")
    # People type `python`; Debian has only python3. The environment comes first on everybody's path.
    tree.file(
        "etc/profile.d/mlvm.sh", f'PATH="/{VENV}/bin:$PATH"\nVIRTUAL_ENV=/{VENV}\nexport PATH VIRTUAL_ENV\n'
    )
    return tree


def _install(archive: zipfile.ZipFile, filename: str, tree: Tree, *, site: str, python: str) -> None:
    """Install one wheel into the tree."""
    info = _dist_info(archive, filename)
    rows: list[tuple[str, str, str]] = []
    seen: set[str] = set()
    for member in archive.infolist():
        if member.is_dir() or member.filename == f"{info}/RECORD":
            continue
        if member.filename in seen:
            raise BuildError(f"`{filename}` holds `{member.filename}` twice")
        seen.add(member.filename)
        content = archive.read(member)
        target, is_script = _target(member.filename, info, site=site, python=python)
        if is_script and content.startswith(b"#!python"):
            content = f"#!/{VENV}/bin/python".encode() + content[content.index(b"\n") :]
        executable = is_script or bool((member.external_attr >> 16) & 0o111)
        _put(tree, target, content, executable=executable, filename=filename)
        rows.append(_row(target, content, site))
    if f"{info}/RECORD" not in archive.namelist():
        raise BuildError(f"`{filename}` has no RECORD")
    for name, content in _entry_points(archive, info):
        target = f"{VENV}/bin/{name}"
        _put(tree, target, content, executable=True, filename=filename)
        rows.append(_row(target, content, site))
    _put(tree, f"{site}/{info}/INSTALLER", b"mlvm\n", executable=False, filename=filename)
    rows.append(_row(f"{site}/{info}/INSTALLER", b"mlvm\n", site))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*sorted(rows), (f"{info}/RECORD", "", "")])
    tree.file(f"{site}/{info}/RECORD", text.getvalue())


def _dist_info(archive: zipfile.ZipFile, filename: str) -> str:
    found = {name.split("/")[0] for name in archive.namelist() if name.split("/")[0].endswith(".dist-info")}
    if len(found) != 1:
        raise BuildError(f"`{filename}` has {len(found)} .dist-info folders; a wheel has one")
    return found.pop()


def _target(name: str, info: str, *, site: str, python: str) -> tuple[str, bool]:
    """Return where a member goes, and whether it is a script."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return f"{site}/{name}", False
    scheme, _, inside = rest.partition("/")
    if scheme not in {"purelib", "platlib", "scripts", "data", "headers"}:
        raise BuildError(f"`{name}` is in a scheme that no installer knows")
    places = {
        "purelib": site,
        "platlib": site,
        "scripts": f"{VENV}/bin",
        "data": VENV,
        "headers": f"{VENV}/include/site/python{python}/{info.split('-', maxsplit=1)[0]}",
    }
    return f"{places[scheme]}/{inside}", scheme == "scripts"


def _put(tree: Tree, target: str, content: bytes, *, executable: bool, filename: str) -> None:
    node = Node(mode=0o755 if executable else 0o644, content=content)
    if target in tree and tree.nodes[target] != node:
        raise BuildError(f"`{filename}` writes `/{target}`, which another wheel wrote with other content")
    tree.put(target, node)


def _entry_points(archive: zipfile.ZipFile, info: str) -> Iterator[tuple[str, bytes]]:
    name = f"{info}/entry_points.txt"
    if name not in archive.namelist():
        return
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names of commands keep their case
    parser.read_string(archive.read(name).decode())
    for section in ("console_scripts", "gui_scripts"):
        for command, reference in parser.items(section) if parser.has_section(section) else ():
            match = _ENTRY_POINT.fullmatch(reference.strip())
            if match is None or "/" in command:
                raise BuildError(f"`{command} = {reference}` of {info} is no entry point")
            attribute = match["attribute"]
            text = _WRAPPER.format(
                venv=VENV, module=match["module"], first=attribute.split(".")[0], attribute=attribute
            )
            yield command, text.encode()


def _row(target: str, content: bytes, site: str) -> tuple[str, str, str]:
    """Return a line of RECORD: path from site-packages, digest, size."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    inside = target.removeprefix(site + "/")
    path = inside if inside != target else "../../../" + target.removeprefix(VENV + "/")
    return path, f"sha256={digest}", str(len(content))
