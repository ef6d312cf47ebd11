"""Packages of the project in the Python layer: as an installed package is, but for its code."""

from __future__ import annotations

from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import lock_sample as sample

from mlvm.image.editable import add_editable
from mlvm.image.environment import VENV
from mlvm.image.plan import plan
from mlvm.image.tree import Tree
from mlvm.lock.document import Lock
from mlvm.lock.text import dumps, loads

PACKAGE: dict[str, Any] = {
    "name": "own-package",
    "version": "1.2",
    "code": "src",
    "entries": {
        "console_scripts": {"own": "own_package.cli:main"},
        "own.plugins": {"a": "own_package:A [x]"},
    },
}
SITE = f"{VENV}/lib/python3.11/site-packages"


def lock(**changes: Any) -> Lock:
    plain = sample.lock()
    return sample.lock(inputs={**plain.inputs, "editable": [{**PACKAGE, **changes}]}, image=None)


def tree_of(found: Lock) -> Tree:
    tree = Tree()
    add_editable(tree, found)
    return tree


def test_the_path_leads_to_where_the_machine_has_the_code() -> None:
    tree = tree_of(lock())

    assert tree.read(f"{SITE}/_mlvm_own_package.pth") == b"/opt/mlvm/editable/own-package/src\n"
    assert "opt/mlvm/editable/own-package/src" in tree.nodes


def test_it_counts_as_installed(tmp_path: Path) -> None:
    tree = tree_of(lock())
    info = tmp_path / "own_package-1.2.dist-info"
    info.mkdir()
    for name in ("METADATA", "RECORD", "entry_points.txt"):
        (info / name).write_bytes(tree.read(f"{SITE}/{info.name}/{name}"))

    found = PathDistribution(info)

    assert (found.metadata["Name"], found.version) == ("own-package", "1.2")
    assert {(one.group, one.name, one.value) for one in found.entry_points} == {
        ("console_scripts", "own", "own_package.cli:main"),
        ("own.plugins", "a", "own_package:A [x]"),
    }
    files = [str(path) for path in found.files or ()]
    assert sorted(files) == [
        "../../../bin/own",
        "_mlvm_own_package.pth",
        *(
            f"{info.name}/{name}"
            for name in ("INSTALLER", "METADATA", "RECORD", "direct_url.json", "entry_points.txt")
        ),
    ]


def test_its_commands_call_it() -> None:
    assert b"from own_package.cli import main" in tree_of(lock()).read(f"{VENV}/bin/own")


def test_an_image_is_of_its_version_and_commands() -> None:
    ids = {plan(found).image_id for found in (sample.lock(), lock(), lock(version="1.3"), lock(code=""))}

    assert len(ids) == 4


def test_a_lock_with_it_and_back() -> None:
    assert loads(dumps(lock())) == lock()
