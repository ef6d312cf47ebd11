"""The box layer: the person's account under another name, and nothing that belongs to one machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mlvm.box.layer import KEYS_PROGRAM, NAMES_PROGRAM, make_box_layer
from mlvm.image.tree import Tree

SYSTEM = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nmlvm:x:1000:1000:mlvm:/home/mlvm:/bin/bash\n",
    "etc/group": "sudo:x:27:mlvm\nvideo:x:44:alice,mlvm\nmlvm:x:1000:\n",
    "etc/shadow": "root:*:1:0:99999:7:::\nmlvm:*:1:0:99999:7:::\n",
    "etc/gshadow": "sudo:*::mlvm\nmlvm:*::\n",
    "etc/subuid": "mlvm:100000:65536\n",
    "etc/subgid": "mlvm:100000:65536\n",
    "etc/skel/.bashrc": "b",
    "etc/skel/.profile": "p",
    "etc/skel/.bash_logout": "l",
}


@pytest.fixture
def tree() -> Tree:
    return make_box_layer(lambda path: SYSTEM[path].encode())


def test_the_person_is_called_vagrant(tree: Tree) -> None:
    assert (
        tree.read("etc/passwd").decode().splitlines()[1]
        == "vagrant:x:1000:1000:vagrant:/home/vagrant:/bin/bash"
    )


def test_she_keeps_her_groups(tree: Tree) -> None:
    assert tree.read("etc/group").decode() == "sudo:x:27:vagrant\nvideo:x:44:alice,vagrant\nvagrant:x:1000:\n"


def test_nobody_reads_shadow(tree: Tree) -> None:
    assert [(tree[f"etc/{name}"].mode, tree[f"etc/{name}"].gid) for name in ("shadow", "gshadow")] == [
        (0o640, 42)
    ] * 2


def test_nothing_in_it_is_secret(tree: Tree) -> None:
    assert [path for path, node in tree.ordered() if b"PRIVATE KEY" in b"".join(node.pieces())] == []


@pytest.mark.parametrize("program", [KEYS_PROGRAM, NAMES_PROGRAM])
def test_its_programs_are_shell(tree: Tree, program: str, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(tree.read(program))
    subprocess.run(["sh", "-n", tmp_path / "program"], check=True)


def test_ssh_asks_for_keys_only_as_its_owner(tree: Tree) -> None:
    node = tree["home/vagrant/.ssh/authorized_keys"]
    assert (node.mode, node.uid, tree["home/vagrant/.ssh"].mode) == (0o600, 1000, 0o700)
