"""The guest kernel out of its packages: vmlinuz, its modules, and what each module needs.

The kernel is never installed as a package: its scripts would want an initramfs-tools. Modules may be compressed, as
newer releases ship them.
"""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlvm.download import Blobs
from mlvm.errors import BuildError
from mlvm.image import elf
from mlvm.image.merged import merged_path
from mlvm.image.sources import read_deb
from mlvm.lock.deb import Kind, unzstd
from mlvm.lock.document import DebianPackage, Lock

_MODULE = re.compile(r"([^/]+)\.ko(\.xz|\.zst|\.gz)?$")
_PREFIX = "linux-image-"


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestKernel:
    """A guest kernel's files: `modules` are all below /usr/lib/modules/<release>, by their path there."""

    release: str
    vmlinuz: bytes
    modules: Mapping[str, bytes]


def kernel_release(lock: Lock) -> str:
    """Return what `uname -r` will say, which Debian puts in the package's name. Raises BuildError."""
    if not lock.guest_kernel.startswith(_PREFIX):
        raise BuildError(
            f"`{lock.guest_kernel}` is not the name of a guest kernel's package", hint="mlvm lock"
        )
    return lock.guest_kernel.removeprefix(_PREFIX)


def read_guest_kernel(lock: Lock, blobs: Blobs) -> GuestKernel:
    """Take the guest kernel out of the lock's boot packages. Raises BuildError when it is not there."""
    return guest_kernel_in(lock.boot, kernel_release(lock), blobs)


def guest_kernel_in(packages: Iterable[DebianPackage], release: str, blobs: Blobs) -> GuestKernel:
    """Take guest kernel `release` out of some packages. Raises BuildError when it is not there."""
    below = f"usr/lib/modules/{release}/"
    vmlinuz = b""
    modules: dict[str, bytes] = {}
    for package in packages:
        if not package.name.startswith("linux-"):
            continue
        for entry in read_deb(package, blobs).entries:
            path = merged_path(entry.path)
            if entry.kind is not Kind.FILE:
                continue
            if path == f"boot/vmlinuz-{release}":
                vmlinuz = entry.data
            elif path.startswith(below):
                modules[path.removeprefix(below)] = entry.data
    if not vmlinuz or not modules:
        raise BuildError(f"the lock's packages do not hold guest kernel {release}", hint="mlvm lock")
    return GuestKernel(release=release, vmlinuz=vmlinuz, modules=modules)


def with_dependencies(
    kernel: GuestKernel, wanted: Iterable[str], *, optional: Iterable[str] = ()
) -> dict[str, bytes]:
    """Return the modules to load, uncompressed, each after those it needs.

    What is built into the kernel is left out. Raises BuildError for a wanted module that is nowhere.
    """
    paths = {_name(path): path for path in kernel.modules if _MODULE.search(path)}
    builtin = {_name(line) for line in kernel.modules.get("modules.builtin", b"").decode().split()}
    ordered: dict[str, bytes] = {}
    begun: set[str] = set()  # soft dependencies may go in circles

    def add(name: str, asked_by: str) -> None:
        name = name.replace("-", "_")
        if name in begun or name in builtin:
            return
        begun.add(name)
        if name not in paths:
            raise BuildError(f"guest kernel {kernel.release} has no module `{name}`, which {asked_by} needs")
        content = uncompressed(paths[name], kernel.modules[paths[name]])
        facts = modinfo(content)
        needed = [part for line in facts.get("depends", ()) for part in line.split(",") if part]
        before = [part for line in facts.get("softdep", ()) for part in _softdeps(line)]
        for other in (*needed, *(part for part in before if part.replace("-", "_") in paths)):
            add(other, f"`{name}`")
        ordered[name] = content

    for name in wanted:
        add(name, "the initramfs")
    for name in optional:
        if name in paths:
            add(name, "the initramfs")
    return ordered


def uncompressed(path: str, content: bytes) -> bytes:
    """Return a module's bytes, whatever its suffix says it is compressed with."""
    try:
        if path.endswith(".xz"):
            return lzma.decompress(content)
        if path.endswith(".zst"):
            return unzstd(content)
    except (lzma.LZMAError, ValueError) as broken:
        raise BuildError(f"guest kernel module `{path}` cannot be unpacked: {broken}") from None
    return content


def modinfo(module: bytes) -> dict[str, list[str]]:
    """Return the facts a module carries in its `.modinfo` section. Raises BuildError for what is no module."""
    try:
        section = elf.section(module, b".modinfo")
    except ValueError as broken:
        raise BuildError(f"a guest kernel module is not one: {broken}") from None
    facts: dict[str, list[str]] = {}
    for item in section.split(b"\0"):
        key, _, value = item.decode(errors="replace").partition("=")
        if key:
            facts.setdefault(key, []).append(value)
    return facts


def _softdeps(line: str) -> list[str]:
    """Return what a `softdep` line wants loaded before."""
    words = line.split()
    if "pre:" not in words:
        return []
    after = words[words.index("pre:") + 1 :]
    return after[: after.index("post:")] if "post:" in after else after


def _name(path: str) -> str:
    match = _MODULE.search(path)
    return (match[1] if match else path).replace("-", "_")
