"""What boots a box where no QEMU loads the guest kernel: GRUB, the guest kernel, and an initramfs for any hypervisor.

GRUB for both ways, BIOS and UEFI, because it is one program, one script and one Debian source for both; an EFI stub
would still need a second thing for BIOS, which is what VirtualBox and VMware boot by default. grub-mkimage comes from
the lock and runs through its own loader, like the file system tools. grub-install is not needed: two numbers in GRUB's
boot sector say where the rest is.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

from mlvm.box.disk import Boot
from mlvm.box.fat import make_fat
from mlvm.download import Blobs
from mlvm.errors import BuildError
from mlvm.image.initramfs import pack_initramfs
from mlvm.image.modules import GuestKernel, with_dependencies
from mlvm.image.tools import Tools
from mlvm.lock.document import Lock

#: Each hypervisor's disk controllers, and what the root is made of. Loading what has no hardware costs milliseconds.
WANTED = (
    *("virtio_pci", "virtio_blk", "virtio_scsi"),
    *("ahci", "ata_piix", "sd_mod", "nvme"),
    *("vmw_pvscsi", "mptspi", "mptsas"),
    *("hv_vmbus", "hv_storvsc"),
    # Asked for by its function, not by its name, so that no list of dependencies has it.
    "crc32c_generic",
    *("erofs", "overlay", "ext4"),
)
#: Modules for what no hypervisor shows to a guest: half of them all.
LEFT_OUT = re.compile(
    r"kernel/(?:sound/|lib/test_|net/(?:bluetooth|mac80211|wireless)/|fs/ocfs2/|drivers/(?:"
    r"bluetooth|comedi|hwmon|iio|infiniband|isdn|media|mtd|net/wireless|platform|staging|video/fbdev"
    r"|gpu/drm/(?:amd|gma500|i915|nouveau|radeon))/)"
)
#: The boot partition's size and serial number; GRUB knows it by the latter.
_SIZE, _SERIAL = 96 << 20, 0x6D6C766D
_MODULES = ("part_gpt", "fat", "search", "search_fs_uuid", "linux", "boot")
#: Where GRUB's core begins on the disk, in sectors: behind the partition table.
_CORE_SECTOR = 34


def init_script() -> bytes:
    """Return the text of `init.sh`."""
    return Path(__file__).with_name("init.sh").read_bytes()


def make_box_initramfs(lock: Lock, blobs: Blobs, kernel: GuestKernel) -> bytes:
    """Return the initramfs, uncompressed."""
    return pack_initramfs(lock, blobs, with_dependencies(kernel, WANTED), init=init_script())


def script(layers: Sequence[str]) -> str:
    """Return what GRUB does: find the boot partition, load two files, go.

    Both consoles are there; what the last one shows is what can be read on a hypervisor's serial port.
    """
    words = [
        f"mlvm.layers={','.join(layers)}",
        *("console=tty0", "console=ttyS0", "net.ifnames=0", "loglevel=4", "systemd.show_status=error"),
        # Where the CPU is emulated and the host busy, the guest kernel's test of its timer fails, and it stops.
        "no_timer_check",
    ]
    return (
        f"search --no-floppy --fs-uuid --set=root {_SERIAL >> 16:04X}-{_SERIAL & 0xFFFF:04X}\n"
        f"linux /MLVM/VMLINUZ {' '.join(words)}\n"
        "initrd /MLVM/INITRD\n"
        "boot\n"
    )


def make_boot(
    vmlinuz: bytes, initramfs: bytes, *, layers: Sequence[str], tools: Tools, scratch: Path
) -> Boot:
    """Return all that boots; `scratch` is an empty folder for grub-mkimage."""
    (scratch / "script").write_text(script(layers))
    core = bytearray(_grub("i386-pc", ("biosdisk", *_MODULES), tools, scratch))
    efi = _grub("x86_64-efi", _MODULES, tools, scratch)
    files = {"EFI/BOOT/BOOTX64.EFI": efi, "MLVM/VMLINUZ": vmlinuz, "MLVM/INITRD": initramfs}
    sector = bytearray((tools.folder / "usr/lib/grub/i386-pc/boot.img").read_bytes())
    if len(sector) != 512 or len(core) < 512:
        raise BuildError("GRUB's boot sector is not one")
    # What grub-bios-setup does: say where the core is, and do not ask the BIOS which disk this is.
    struct.pack_into("<Q", sector, 0x5C, _CORE_SECTOR)
    sector[0x66:0x68] = b"\x90\x90"
    struct.pack_into("<Q", core, 512 - 12, _CORE_SECTOR + 1)
    return Boot(
        sector=bytes(sector),
        core=bytes(core),
        system=make_fat(files, size=_SIZE, serial=_SERIAL, label="MLVM"),
    )


def _grub(kind: str, modules: Sequence[str], tools: Tools, scratch: Path) -> bytes:
    target = scratch / kind
    folder = tools.folder / "usr/lib/grub" / kind
    options: list[Path | str] = ["-d", folder, "-O", kind, "-p", "/", "-c", scratch / "script", "-o", target]
    tools.run("grub-mkimage", [*options, *modules])
    return target.read_bytes()
