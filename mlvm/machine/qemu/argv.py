"""The QEMU command line, a pure function of what is to be launched.

One small function a device, each returning a list; nothing is read from the host here. QEMU splits its option
values at commas, so each is written by `option`, which doubles them. There is nothing secret in it: keys
reach the guest through the agent.

q35 rather than pc: 6.2 s against 6.8 s from start to agent under TCG (measured with QEMU 7.2, guest kernel
6.1), and PCIe is what device passthrough will want. RAM is an object of its own, so that it can come from a
file later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlvm.image.document import Artifact, Image
from mlvm.image.network import NETWORK_WORD
from mlvm.machine.channel import PORTS
from mlvm.machine.qemu.host import Accelerator, HostProbe
from mlvm.machine.record import Record
from mlvm.machine.share.network import MOUNT_PORT, SHARE_ADDRESS, SHARE_PORT
from mlvm.paths import socket_path

MIB = 1024 * 1024

#: Files in a machine's folder.
OVERLAY = "overlay.img"
#: There until the first start has succeeded: until then there is nothing of anybody's on its disk, if it has one.
FRESH = "fresh"
#: The disk in a fork's folder.
FORK_DISK = "disk.img"
#: Sockets in its socket folder.
MONITOR = "qmp.sock"
CONSOLE = "console.sock"
#: The device that gives memory back.
BALLOON = "balloon"
#: Character devices, and sockets `NAME.sock`, of the shared folders' server: files, and which folders there are.
SHARE, MOUNT = "share", "mount"


@dataclass(frozen=True, kw_only=True, slots=True)
class RamFile:
    """RAM that is a file: written through when `shared`, else a private copy-on-write map of it.

    A guest that goes on from such a map has booted: `booted` is then enough of a guest kernel for QEMU to accept it.
    """

    path: Path
    shared: bool
    booted: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """All that decides a command line; `kernel_options` are more words for the guest kernel's.

    One that is `asleep` does not run a guest that it has received. `gpus` are the PCI addresses of what the host gives
    away: GPUs, and what comes with them.
    """

    record: Record
    image: Image
    host: HostProbe
    accelerator: Accelerator
    incoming: bool = False
    asleep: bool = False
    ram: RamFile | None = None
    kernel_options: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()


def command_line(launch: Launch) -> list[str]:
    """Return the whole command line."""
    record, image = launch.record, launch.image
    sockets = record.home.sockets(record.name)
    return [
        launch.host.qemu,
        *name_args(record.name),
        *confinement_args(),
        *machine_args(launch.accelerator),
        *cpu_args(record.shape.cpus),
        *memory_args(record.shape.memory, launch.ram, launch.host.qemu_version),
        *kernel_args(image, launch.accelerator, launch.kernel_options, launch.ram),
        *[word for layer in image.layers for word in layer_args(layer)],
        *overlay_args(record.folder / OVERLAY, fork_disks(record)),
        *share_args(sockets),
        *network_args(record.network, record.mac),
        *entropy_args(),
        *console_args(socket_path(sockets, CONSOLE), record.console_log),
        *agent_args(sockets),
        *monitor_args(socket_path(sockets, MONITOR)),
        *balloon_args(record.shape.elastic, launch.ram),
        *passthrough_args(launch.gpus),
        *(["-incoming", "defer"] if launch.incoming else []),
        *(["-S"] if launch.asleep else []),
    ]


def option(*words: str, **values: object) -> str:
    """Return one option value: `words`, then `key=value` pairs, commas in values doubled.

    Underscores in keys become dashes where QEMU wants dashes; True and False are its `on` and `off`.
    """
    return ",".join([*words, *(f"{key.replace('_', '-')}={_value(value)}" for key, value in values.items())])


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value).replace(",", ",,")


def name_args(name: str) -> list[str]:
    """Show the machine's name in the process list."""
    return ["-name", option(guest=f"mlvm-{name}")]


def confinement_args() -> list[str]:
    """Leave QEMU nothing it does not need: no default devices, no settings of the user's, no programs."""
    deny = dict.fromkeys(("obsolete", "elevateprivileges", "spawn", "resourcecontrol"), "deny")
    return ["-nodefaults", "-no-user-config", "-display", "none", "-sandbox", option("on", **deny)]


def machine_args(accelerator: Accelerator) -> list[str]:
    """Choose the machine type; a guest that reboots or panics ends QEMU, and is seen to have ended."""
    accel = option("tcg", thread="multi", tb_size=TRANSLATED) if accelerator is Accelerator.TCG else "kvm"
    cpu = EMULATED_CPU if accelerator is Accelerator.TCG else "host"
    board = option("q35", memory_backend="ram", vmport=False, usb=False)
    return ["-machine", board, "-accel", accel, "-cpu", cpu, "-rtc", option(base="utc"), "-no-reboot"]


def cpu_args(cpus: int) -> list[str]:
    """Give it CPUs."""
    return ["-smp", str(cpus)]


def memory_args(size: int, ram: RamFile | None, qemu_version: str) -> list[str]:
    """Give it memory, in whole MiB; a map of a file nobody may write is opened for reading where QEMU can do that."""
    mib = size // MIB
    if ram is None:
        backend = option("memory-backend-ram", id="ram", size=f"{mib}M")
    else:
        readonly = (
            {"readonly": True, "rom": False} if _at_least(qemu_version, 8, 2) and not ram.shared else {}
        )
        backend = option(
            "memory-backend-file", id="ram", size=f"{mib}M", mem_path=ram.path, share=ram.shared, **readonly
        )
    return ["-object", backend, "-m", f"{mib}M"]


def _at_least(version: str, *wanted: int) -> bool:
    return tuple(int(part) for part in version.split(".")[:2]) >= wanted


#: MiB of translated code that an emulator keeps, private to each machine; when they are full it forgets all and starts
#: again. A first cell with torch leaves 60. A machine on standby has more behind it, and what it has translated is what
#: it is kept for: with 64 its first cell took twice as long as with these. Long work without a limit left 86.
TRANSLATED = 192
#: All that can be emulated but quick string moves: TCG does them byte by byte, and the guest kernel would clear and
#: copy every page with them. Without, it clears 400 MB in 0.7 s of CPU time, with them in 3.1 s.
EMULATED_CPU = "max,-erms,-fsrm"
#: Words for an emulated guest kernel only: what it does against CPUs that speculate never reaches one, since its
#: instructions are translated, and tests of its own ciphers are half a second of every boot. (Not `tsc=reliable`,
#: though its other clocks are slow: on a busy host it may find the TSC to be ten times faster than it is.)
EMULATED = ("mitigations=off", "cryptomgr.notests=1")


def kernel_args(
    image: Image, accelerator: Accelerator, more: tuple[str, ...], ram: RamFile | None = None
) -> list[str]:
    """Boot the image's guest kernel, telling its initramfs which layers make the root and which address it has.

    QEMU keeps the kernel in memory for as long as it runs; who has booted already needs no more than its beginning.
    """
    kernel = ram.booted if ram is not None and ram.booted is not None else image.vmlinuz.path
    words = [
        f"mlvm.layers={','.join(layer.name for layer in image.layers)}",
        NETWORK_WORD,
        "console=ttyS0",
        "panic=-1",
        "net.ifnames=0",
        # Enough to tell that the guest kernel runs, and why it stopped; more would slow the boot.
        "loglevel=6",
        "systemd.show_status=error",
        *(EMULATED if accelerator is Accelerator.TCG else ()),
        *more,
    ]
    return [
        *("-kernel", str(kernel)),
        *("-initrd", str(image.initramfs.path)),
        *("-append", " ".join(words)),
    ]


def layer_args(layer: Artifact) -> list[str]:
    """Attach a read-only layer, its name as serial; unlocked, since many machines read the same file."""
    backing = option(
        driver="file", filename=layer.path, node_name=f"file-{layer.name}", read_only=True, locking=False
    )
    disk = option(driver="raw", file=f"file-{layer.name}", node_name=layer.name, read_only=True)
    return ["-blockdev", backing, "-blockdev", disk, *_disk_device(layer.name)]


def overlay_args(path: Path, beneath: tuple[Path, ...] = ()) -> list[str]:
    """Attach the machine's own disk; what the guest deletes is given back to the host.

    A fork's holds what differs from the disks `beneath` it, the nearest first, which nobody writes to any more. Each is
    named here and by its format: what a qcow2 file itself says of others is not followed.
    """
    words: list[str] = []
    base: dict[str, str] = {}
    for depth, disk in reversed(list(enumerate(beneath, 1))):
        name = f"overlay-{depth}"
        file = option(driver="file", filename=disk, node_name=f"file-{name}", read_only=True, locking=False)
        words += [
            "-blockdev",
            file,
            "-blockdev",
            option(**_format(base), file=f"file-{name}", node_name=name, read_only=True, **base),
        ]
        base = {"backing": name}
    own = option(driver="file", filename=path, node_name="file-overlay", discard="unmap", locking=True)
    top = option(
        **_format(base),
        file="file-overlay",
        node_name="overlay",
        discard="unmap",
        detect_zeroes="unmap",
        **base,
    )
    return [*words, "-blockdev", own, "-blockdev", top, *_disk_device("overlay")]


def _format(base: dict[str, str]) -> dict[str, str]:
    """Return the format of a disk: one with another beneath is qcow2."""
    return {"driver": "qcow2" if base else "raw"}


def fork_disks(record: Record) -> tuple[Path, ...]:
    """Return the disks beneath a forked machine's own, the nearest first."""
    return tuple(record.home.forks / fork / FORK_DISK for fork in record.forks)


def _disk_device(name: str) -> list[str]:
    return ["-device", option("virtio-blk-pci", drive=name, serial=name)]


def share_args(sockets: Path) -> list[str]:
    """Give the shared folders' server its two doors: an address that only the guest sees, a socket that only we see."""
    return [
        word
        for name in (SHARE, MOUNT)
        for word in ("-chardev", _socket(name, socket_path(sockets, f"{name}.sock")))
    ]


def network_args(network: str, mac: str) -> list[str]:
    """Attach the user network; with "none" only forwarded ports pass (the monitor adds them later)."""
    backend = option("user", id="net", restrict=network == "none", ipv6=False)
    for port, name in ((SHARE_PORT, SHARE), (MOUNT_PORT, MOUNT)):
        backend += f",guestfwd=tcp:{SHARE_ADDRESS}:{port}-chardev:{name}"
    return ["-netdev", backend, "-device", option("virtio-net-pci", netdev="net", mac=mac, romfile="")]


def entropy_args() -> list[str]:
    """Give it random numbers, and a generation id that tells a restored guest to renew its own."""
    return ["-device", "virtio-rng-pci", "-device", option("vmgenid", guid="auto")]


def balloon_args(elastic: bool, ram: RamFile | None) -> list[str]:
    """Let the guest give memory back: what it frees, and what it is asked for. Never where RAM is a file.

    QEMU gives pages back by punching holes into the file, even of a private map: into what other machines map, too. The
    guest decides which pages, so such a machine must not even have the device.
    """
    if not elastic:
        return []
    assert ram is None, "only memory of its own can be given back"
    device = option("virtio-balloon-pci", id=BALLOON, free_page_reporting=True)
    return ["-device", device]


def console_args(socket: Path, log: Path) -> list[str]:
    """Put the serial console on a socket, and all it says in a file."""
    return [
        "-chardev",
        _socket("console", socket, logfile=log, logappend=False),
        "-serial",
        "chardev:console",
    ]


def agent_args(sockets: Path) -> list[str]:
    """Give the agent its ports; each is a socket in a folder nobody else may enter."""
    words = ["-device", f"virtio-serial-pci,max_ports={PORTS + 1}"]
    for number in range(PORTS):
        words += ["-chardev", _socket(f"agent{number}", socket_path(sockets, f"agent-{number}.sock"))]
        port = option("virtserialport", chardev=f"agent{number}", name=f"mlvm.{number}", nr=number + 1)
        words += ["-device", port]
    return words


def vfio_device(address: str) -> tuple[str, dict[str, object]]:
    """Return QEMU's device for one function of a PCI device of the host, and its properties."""
    return "vfio-pci", {"host": address}


def passthrough_args(
    addresses: tuple[str, ...],
    device: Callable[[str], tuple[str, dict[str, object]]] = vfio_device,
) -> list[str]:
    """Give it devices of the host, each card behind a root port of its own, its functions together as they were.

    Behind a port, since that is where drivers expect a graphics card, and where one may be plugged later. Functions
    are counted anew: a virtual one of a card has a number of its own there, and is the first here.
    """
    cards: dict[str, list[str]] = {}
    for address in addresses:
        cards.setdefault(address.rpartition(".")[0], []).append(address)
    words: list[str] = []
    for number, functions in enumerate(cards.values()):
        words += ["-device", option("pcie-root-port", id=f"gpu{number}", bus="pcie.0", chassis=number + 1)]
        for function, address in enumerate(functions):
            driver, properties = device(address)
            place = {"bus": f"gpu{number}", "addr": f"0.{function}"}
            several = {"multifunction": True} if len(functions) > 1 and function == 0 else {}
            words += ["-device", option(driver, **properties, **place, **several)]
    return words


def monitor_args(socket: Path) -> list[str]:
    """Give us QMP."""
    return ["-chardev", _socket("monitor", socket), "-mon", option(chardev="monitor", mode="control")]


def _socket(name: str, path: Path, **more: object) -> str:
    return option("socket", id=name, path=path, server=True, wait=False, **more)
