"""The initramfs: a static busybox, a few modules, and a script that stacks the layers into a root.

`init.sh` beside this module is that script. Loading as little as possible here keeps the boot short: what the root
itself does not need is udev's matter.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Mapping
from pathlib import Path

from mlvm.download import Blobs
from mlvm.errors import BuildError
from mlvm.image import cpio
from mlvm.image.merged import merged_path
from mlvm.image.modules import GuestKernel, with_dependencies
from mlvm.image.sources import read_deb
from mlvm.lock.deb import Kind
from mlvm.lock.document import Lock

#: What finds and reads the disks.
WANTED = ("virtio_pci", "virtio_blk", "erofs", "overlay", "ext4")
#: The agent's ports and the network card, so that nobody need wait for udev.
OPTIONAL = ("virtio_console", "virtio_net")
APPLETS = (
    "chroot",
    "ifconfig",
    "insmod",
    "mkdir",
    "mknod",
    "mount",
    "poweroff",
    "rm",
    "route",
    "sh",
    "sleep",
    "switch_root",
    "umount",
)
BUSYBOX = "busybox-static"


def init_script() -> bytes:
    """Return the text of `init.sh`."""
    return Path(__file__).with_name("init.sh").read_bytes()


def make_initramfs(lock: Lock, blobs: Blobs, kernel: GuestKernel) -> bytes:
    """Return the initramfs, uncompressed. Raises BuildError when a part is missing."""
    modules = with_dependencies(kernel, WANTED, optional=OPTIONAL)
    return pack_initramfs(lock, blobs, modules, init=init_script())


def pack_initramfs(lock: Lock, blobs: Blobs, modules: Mapping[str, bytes], *, init: bytes) -> bytes:
    """Return an initramfs that runs `init` and has `modules`, in the order in which they are to be loaded."""
    entries = {
        path: cpio.folder()
        for path in ("bin", "dev", "layers", "lib", "lib/modules", "overlay", "proc", "root", "sys")
    }
    entries["bin/busybox"] = cpio.file(_busybox(lock, blobs), mode=0o755)
    entries |= {f"bin/{applet}": cpio.link("busybox") for applet in APPLETS}
    entries["dev/console"] = cpio.CpioEntry(mode=stat.S_IFCHR | 0o600, device=(5, 1))
    entries["init"] = cpio.file(init, mode=0o755)
    for name, content in modules.items():
        entries[f"lib/modules/{name}.ko"] = cpio.file(content)
    entries["lib/modules/order"] = cpio.file("".join(f"{name}\n" for name in modules).encode())
    stream = io.BytesIO()
    cpio.write_cpio(entries, stream)
    return stream.getvalue()


def _busybox(lock: Lock, blobs: Blobs) -> bytes:
    for package in lock.boot:
        if package.name == BUSYBOX:
            for entry in read_deb(package, blobs).entries:
                if merged_path(entry.path) == "usr/bin/busybox" and entry.kind is Kind.FILE:
                    return entry.data
    raise BuildError(f"the lock has no `{BUSYBOX}` among its boot packages", hint="mlvm lock")
