"""Make one artifact, in a process of its own: `python -m mlvm.image.step STORE STEP < lock`.

A process a step uses both cores, gives its memory back, and can be killed at any moment without harm: the artifact's
folder appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from mlvm.download import Blobs
from mlvm.errors import BuildError, MlvmError
from mlvm.files import folder_whole, sha256_of
from mlvm.image.agent_layer import agent_sources, agent_tree
from mlvm.image.document import Step
from mlvm.image.erofs import make_erofs
from mlvm.image.guest_kernel import modules_tree, read_guest_kernel
from mlvm.image.initramfs import make_initramfs
from mlvm.image.plan import deb_called, plan, tools_id, wheels
from mlvm.image.python_layer import python_tree
from mlvm.image.store import write_artifact_record
from mlvm.image.system import system_tree
from mlvm.image.tree import Tree
from mlvm.lock.document import Lock
from mlvm.lock.text import loads


def make(lock: Lock, step: Step, *, store: Path) -> None:
    """Make the artifact of `step` in `store`, whose blobs and tools must be there."""
    blobs = Blobs(store / "blobs")
    with folder_whole(store / "artifacts" / step.id) as folder:
        content = folder / "content"
        if step.name == "vmlinuz":
            content.write_bytes(read_guest_kernel(_guest_kernel(lock, blobs)).vmlinuz)
        elif step.name == "initramfs":
            kernel = read_guest_kernel(_guest_kernel(lock, blobs))
            content.write_bytes(make_initramfs(kernel, blobs.path(deb_called(lock, "busybox-static").sha256)))
        else:
            _make_layer(lock, step, content, blobs=blobs, tools=store / "tools" / tools_id(lock))
        content.chmod(0o444)
        write_artifact_record(folder, step, sha256=sha256_of(content), size=content.stat().st_size)


def layer_tree(lock: Lock, name: str, *, blobs: Blobs, tools: Path, scratch: Path) -> Tree:
    """Return the tree of a layer; `scratch` is an empty folder for tools that need real files."""
    match name:
        case "system":
            return system_tree((package, blobs.path(package.sha256)) for package in lock.system)
        case "modules":
            return modules_tree(read_guest_kernel(_guest_kernel(lock, blobs)), tools=tools, scratch=scratch)
        case "python":
            found = [(filename, blobs.path(digest)) for filename, digest in wheels(lock)]
            return python_tree(found, python=str(lock.inputs["python"]))
        case "agent":
            return agent_tree(agent_sources())
    raise BuildError(f"there is no layer called `{name}`")


def _make_layer(lock: Lock, step: Step, content: Path, *, blobs: Blobs, tools: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=content.parent) as name:
        scratch = Path(name)
        tree = layer_tree(lock, step.name, blobs=blobs, tools=tools, scratch=scratch)
        tar = scratch / "layer.tar"
        tree.write_tar(tar)
        make_erofs(tar, content, name=step.name, tools=tools)


def _guest_kernel(lock: Lock, blobs: Blobs) -> Path:
    return blobs.path(deb_called(lock, lock.guest_kernel).sha256)


def main() -> int:
    """Make the step named on the command line; an error goes to standard output as JSON, for `mlvm.image.build`."""
    os.umask(0o022)
    store, name = Path(sys.argv[1]), sys.argv[2]
    lock = loads(sys.stdin.read())
    try:
        make(lock, plan(lock).step(name), store=store)
    except MlvmError as error:
        sys.stdout.write(json.dumps({"message": error.message, "details": error.details, "hint": error.hint}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
