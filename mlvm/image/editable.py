"""Packages of the project in the Python layer: the path to their code, and what tools ask of an installed package.

Their folders exist in the image, empty: what has looked into them before the host's were mounted there looks again,
because the folder has changed, and would not if it had not been there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from mlvm.image.accounts import USER
from mlvm.image.environment import VENV, command_text
from mlvm.image.tree import Tree
from mlvm.image.wheel import record_digest
from mlvm.lock.document import Lock
from mlvm.spec.document import EDITABLE

INSTALLER = b"mlvm\n"
_COMMANDS = ("console_scripts", "gui_scripts")


def add_editable(tree: Tree, lock: Lock) -> None:
    """Add the packages of the project that the lock names."""
    for package in cast("list[Mapping[str, Any]]", lock.inputs.get("editable", [])):
        _add(tree, package, str(lock.inputs["python"]))


def _add(tree: Tree, package: Mapping[str, Any], python: str) -> None:
    own = {"owner": USER.uid, "group": USER.gid}
    place = f"{EDITABLE}/{package['name']}"
    code = f"{place}/{package['code']}".rstrip("/")
    for folder in dict.fromkeys((place, code)):
        tree.folder(folder.lstrip("/"), **own)
    site = f"lib/python{python}/site-packages"
    plain = package["name"].replace("-", "_")
    info = f"{site}/{plain}-{package['version']}.dist-info"
    files: dict[str, tuple[bytes, int]] = {
        f"{site}/_mlvm_{plain}.pth": (f"{code}\n".encode(), 0o644),
        f"{info}/METADATA": (_metadata(package), 0o644),
        f"{info}/INSTALLER": (INSTALLER, 0o644),
        f"{info}/direct_url.json": (
            f'{{"dir_info": {{"editable": true}}, "url": "file://{place}"}}\n'.encode(),
            0o644,
        ),
    }
    if package["entries"]:
        files[f"{info}/entry_points.txt"] = (_entry_points(package["entries"]), 0o644)
    for group in _COMMANDS:
        for command, target in package["entries"].get(group, {}).items():
            files[f"bin/{command}"] = (command_text(target.partition("[")[0].strip()), 0o755)
    record = "".join(
        f"{_from_site(path, site)},{record_digest(content)},{len(content)}\n"
        for path, (content, _) in sorted(files.items())
    )
    files[f"{info}/RECORD"] = (f"{record}{_from_site(info, site)}/RECORD,,\n".encode(), 0o644)
    for path, (content, mode) in files.items():
        tree.file(f"{VENV}/{path}", content, mode=mode, **own)


def _from_site(path: str, site: str) -> str:
    return path.removeprefix(f"{site}/") if path.startswith(f"{site}/") else f"../../../{path}"


def _metadata(package: Mapping[str, Any]) -> bytes:
    return f"Metadata-Version: 2.1\nName: {package['name']}\nVersion: {package['version']}\n".encode()


def _entry_points(entries: Mapping[str, Mapping[str, str]]) -> bytes:
    return "\n".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in sorted(entries[group].items()))
        for group in sorted(entries)
    ).encode()
