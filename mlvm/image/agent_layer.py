"""The agent layer: what answers in the guest, and the unit that starts it.

The sources are those of this very mlvm, so both ends of the control channel always fit; their digest is in the
layer's id. It is the topmost layer: a new mlvm changes these few kilobytes and nothing below.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import mlvm
from mlvm.image.bytecode import Compiler
from mlvm.image.synthesis import enable
from mlvm.image.tree import Tree

TARGET = "usr/lib/mlvm/agent"
UNIT = "mlvm-agent.service"


def agent_sources() -> dict[str, bytes]:
    """Return the agent's files by name: its modules and its unit."""
    folder = Path(mlvm.__file__).parent / "agent"
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in {".py", ".service"}
    }


def sources_digest() -> str:
    """Return a digest of the agent's files and their names."""
    digest = hashlib.sha256()
    for name, content in agent_sources().items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def make_agent(compilers: Iterable[Compiler]) -> Tree:
    """Return the tree of the agent layer, its unit enabled; `compilers` are of all Pythons that run a part of it."""
    tree = Tree()
    for name, content in agent_sources().items():
        folder = "usr/lib/systemd/system" if name == UNIT else TARGET
        tree.file(f"{folder}/{name}", content)
    for compiler in compilers:
        compiler.add_to(tree, below=TARGET)
    enable(tree, UNIT)
    tree.add_parents()
    return tree
