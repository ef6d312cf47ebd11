"""Our own initramfs: busybox, the modules that find the root, and a small init.

A newc cpio archive (Linux, Documentation/driver-api/early-userspace/buffer-format.rst), not compressed: its digest
then depends on no compressor, and unpacking 3 MB costs the guest less than decompressing them. Which modules are
needed is read out of the modules themselves.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from mlvm.errors import BuildError
from mlvm.image.guest_kernel import GuestKernel
from mlvm.image.tree import SOURCE_DATE
from mlvm.lock.deb import read_data

#: Modules of the root: disks, the layers' file system, the union of them, and the agent's channel.
MODULES = ("virtio_pci", "virtio_blk", "erofs", "overlay", "ext4", "virtio_console", "virtio_rng")
APPLETS = (
    "sh", "mount", "umount", "insmod", "mkdir", "switch_root", "cat", "sleep", "ls", "echo", "poweroff",
    "reboot", "test",
)  # fmt: skip
_REGULAR, _FOLDER, _LINK, _DEVICE = 0o100000, 0o040000, 0o120000, 0o020000


def make_initramfs(kernel: GuestKernel, busybox_deb: Path) -> bytes:
    """Return the archive for this guest kernel."""
    order, modules = _with_dependencies(kernel)
    archive = _Cpio()
    for folder in ("bin", "dev", "lib", "lib/modules", "proc", "root", "run", "sys", "layers"):
        archive.add(folder, _FOLDER | 0o755)
    archive.add("dev/console", _DEVICE | 0o600, device=(5, 1))
    archive.add("bin/busybox", _REGULAR | 0o755, _busybox(busybox_deb))
    for applet in APPLETS:
        archive.add(f"bin/{applet}", _LINK | 0o777, b"busybox")
    for name in order:
        archive.add(f"lib/modules/{name}.ko", _REGULAR | 0o644, modules[name])
    archive.add("lib/modules/order", _REGULAR | 0o644, "".join(f"{name}\n" for name in order).encode())
    archive.add("init", _REGULAR | 0o755, init_script())
    return archive.bytes()


def init_script() -> bytes:
    """Return the first program of the guest."""
    return files("mlvm.image").joinpath("init.sh").read_bytes()


def _with_dependencies(kernel: GuestKernel) -> tuple[list[str], dict[str, bytes]]:
    """Return the modules in loading order, and their bytes; built-in ones are left out."""
    order: list[str] = []
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in found:
            return
        content = kernel.module(name)
        if content is None:
            return  # built into the guest kernel
        found[name] = content
        for dependency in _info(content, b"depends").split(","):
            if dependency:
                add(dependency)
        for word in _info(content, b"softdep").replace("pre:", "").split("post:")[0].split():
            add(word)
        order.append(name)

    for module in MODULES:
        add(module)
    return order, found


def _info(module: bytes, key: bytes) -> str:
    """Return a value of a module's .modinfo section, which holds `key=value` strings ended by zero bytes."""
    match = re.search(rb"\0" + key + rb"=([^\0]*)\0", module)
    return match[1].decode() if match else ""


def _busybox(deb: Path) -> bytes:
    for entry in read_data(deb):
        if entry.path in {"bin/busybox", "usr/bin/busybox"}:
            return entry.content
    raise BuildError(f"`{deb.name}` holds no busybox")


class _Cpio:
    """Collects entries; writes them sorted, with numbers of their own."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}

    def add(self, name: str, mode: int, content: bytes = b"", *, device: tuple[int, int] = (0, 0)) -> None:
        self.entries[name] = (mode, content, device)

    def bytes(self) -> bytes:
        parts = [
            _entry(number, name, *self.entries[name]) for number, name in enumerate(sorted(self.entries), 1)
        ]
        whole = b"".join(parts) + _entry(0, "TRAILER!!!", 0, b"", (0, 0))
        return whole + b"\0" * (-len(whole) % 512)


def _entry(number: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    encoded = name.encode() + b"\0"
    links, mtime = 1, SOURCE_DATE if mode else 0
    fields = (number, mode, 0, 0, links, mtime, len(content), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    head += b"\0" * (-len(head) % 4)
    return head + content + b"\0" * (-len(content) % 4)
