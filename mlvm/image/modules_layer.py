"""The modules layer: /usr/lib/modules of the guest kernel, with the indexes that udev and modprobe read.

The indexes are depmod's work. It is run on a folder of the store, pinned and through its own loader like the file
system tools, and with no configuration of the host.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlvm.image.modules import GuestKernel
from mlvm.image.tools import Tools
from mlvm.image.tree import Tree


def make_modules(kernel: GuestKernel, tools: Tools, *, scratch: Path) -> Tree:
    """Return the tree of the modules layer; `scratch` is a folder for depmod to read them from."""
    below = f"usr/lib/modules/{kernel.release}"
    tree = Tree()
    for path, content in kernel.modules.items():
        tree.file(f"{below}/{path}", content)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".tmp-depmod-") as name:
        root = Path(name)
        for path, content in kernel.modules.items():
            place = root / below / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        (root / "lib").symlink_to("usr/lib")
        nothing = root / "no-configuration"
        nothing.mkdir()
        tools.run("depmod", ["-C", nothing, "-b", root, kernel.release])
        for index in sorted((root / below).glob("modules.*")):
            tree.file(f"{below}/{index.name}", index.read_bytes())
    tree.add_parents()
    return tree
