"""The agent layer: the program that answers for the guest, and its unit.

A layer of its own, and the topmost: a new version of mlvm changes these few kilobytes and nothing below.
"""

from __future__ import annotations

import re
from importlib.resources import files

from mlvm.image.tree import Tree

UNIT = "mlvm-agent.service"


def agent_sources() -> dict[str, bytes]:
    """Return the agent's files by name, sorted; caches and other litter are left out."""
    folder = files("mlvm.agent")
    return {
        item.name: item.read_bytes()
        for item in sorted(folder.iterdir(), key=lambda item: item.name)
        if item.is_file() and item.name.endswith((".py", ".service"))
    }


def agent_tree(sources: dict[str, bytes]) -> Tree:
    """Return the layer: sources under /usr/lib/mlvm/agent, the unit enabled as its own [Install] section asks."""
    tree = Tree()
    for name, content in sources.items():
        if name == UNIT:
            tree.file(f"usr/lib/systemd/system/{UNIT}", content)
            for target in re.findall(r"^WantedBy=(.+)$", content.decode(), re.MULTILINE):
                tree.symlink(f"etc/systemd/system/{target}.wants/{UNIT}", f"/usr/lib/systemd/system/{UNIT}")
        else:
            tree.file(f"usr/lib/mlvm/agent/{name}", content)
    return tree
