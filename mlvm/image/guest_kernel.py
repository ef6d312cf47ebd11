"""What is taken out of the guest kernel's package: vmlinuz and the modules.

The package is never installed: its scripts would make an initramfs and a boot loader that a machine does not need.
"""

from __future__ import annotations

import lzma
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlvm.errors import BuildError
from mlvm.image.debian import merged_path
from mlvm.image.tools import run_tool
from mlvm.image.tree import Node, Tree
from mlvm.lock.deb import read_data


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestKernel:
    """A guest kernel's parts; `modules` are paths below the root of the guest -> bytes as they are in the package."""

    release: str
    vmlinuz: bytes
    modules: Tree

    def module(self, name: str) -> bytes | None:
        """Return the module `name`, decompressed; None when the package has none (it may be built in)."""
        wanted = name.replace("-", "_")
        for path in self.modules.nodes:
            file = PurePosixPath(path).name
            if file.split(".")[0].replace("-", "_") == wanted and ".ko" in file:
                content = self.modules.content(path)
                return lzma.decompress(content) if path.endswith(".xz") else content
        return None


def read_guest_kernel(deb: Path) -> GuestKernel:
    """Read the guest kernel's package. Raises BuildError when it has no vmlinuz."""
    modules, vmlinuz, release = Tree(), b"", ""
    for entry in read_data(deb):
        path = merged_path(entry.path)
        if match := re.fullmatch(r"boot/vmlinuz-(.+)", path):
            vmlinuz, release = entry.content, match[1]
        elif path.startswith("usr/lib/modules/") and entry.kind in {tarfile.REGTYPE, tarfile.DIRTYPE}:
            modules.put(path, Node(kind=entry.kind, mode=entry.mode, content=entry.content))
    if not vmlinuz:
        raise BuildError(f"`{deb.name}` holds no guest kernel")
    return GuestKernel(release=release, vmlinuz=vmlinuz, modules=modules)


def modules_tree(kernel: GuestKernel, *, tools: Path, scratch: Path) -> Tree:
    """Return the modules layer: the modules, and the indexes that depmod makes of them."""
    for path, node in kernel.modules.nodes.items():
        if node.kind == tarfile.REGTYPE:
            target = scratch / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(node.content)
    (scratch / "lib").symlink_to("usr/lib")
    before = set(scratch.rglob("modules.*"))
    run_tool(tools, "usr/sbin/depmod", ["-b", scratch, kernel.release])
    tree = Tree()
    tree.nodes = dict(kernel.modules.nodes)
    for index in sorted({*scratch.rglob("modules.*")} | before):
        if index.is_file() and "lib" in index.relative_to(scratch).parts[:2]:
            tree.file(str(index.relative_to(scratch)), index.read_bytes())
    return tree
