"""PCI devices as the host's sysfs shows them, as frozen data: what passing a GPU to a machine depends on.

Looking never fails: what a kernel does not show is empty. The root of `sys`, `proc` and `dev` is a parameter, since
tests look at trees of hosts that nobody here has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
NVIDIA = "0x10de"
#: What the host's kernel binds a device to so that a program may drive it.
VFIO = "vfio-pci"
#: Classes of PCI devices, by their first digits.
DISPLAY, BRIDGE, AUDIO = "0x03", "0x0604", "0x0403"
_CLASSES = {
    DISPLAY: "GPU", BRIDGE: "bridge", AUDIO: "audio", "0x0108": "NVMe disk", "0x0106": "SATA", "0x02": "network",
    "0x0c03": "USB", "0x0c80": "USB-C",
}  # fmt: skip
_DRIVER_VERSION = re.compile(r"\s([0-9]{3}(?:\.[0-9]+)+)\s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One function of a PCI device. `group` is its IOMMU group; `physical` the device that it is a virtual part of."""

    address: str
    vendor: str = ""
    device: str = ""
    kind: str = ""
    driver: str = ""
    group: str = ""
    boot_vga: bool = False
    resettable: bool = False
    virtual_functions: int = 0
    physical: str = ""

    @property
    def slot(self) -> str:
        """The address without its function: functions of one card share it."""
        return self.address.rpartition(".")[0]

    @property
    def is_gpu(self) -> bool:
        """Whether it is one of NVIDIA's GPUs: shown as a display or, in servers, as a 3D controller."""
        return self.kind.startswith(DISPLAY) and self.vendor == NVIDIA

    @property
    def is_bridge(self) -> bool:
        """Whether it only leads to others; bridges may stay in a group as they are."""
        return self.kind.startswith(BRIDGE)

    def __str__(self) -> str:
        what = next((name for start, name in _CLASSES.items() if self.kind.startswith(start)), "device")
        return f"{self.address} ({what}{', on ' + self.driver if self.driver else ''})"


def read_devices(root: Path = ROOT) -> dict[str, Device]:
    """Return every PCI device, by address."""
    folder = root / "sys/bus/pci/devices"
    if not folder.is_dir():
        return {}
    return {path.name: _device(path) for path in sorted(folder.iterdir())}


def _device(path: Path) -> Device:
    virtual = _text(path / "sriov_numvfs")
    return Device(
        address=path.name,
        vendor=_text(path / "vendor"),
        device=_text(path / "device"),
        kind=_text(path / "class"),
        driver=_linked(path / "driver"),
        group=_linked(path / "iommu_group"),
        boot_vga=_text(path / "boot_vga") == "1",
        resettable=(path / "reset").exists(),
        virtual_functions=int(virtual) if virtual.isdigit() else 0,
        physical=_linked(path / "physfn"),
    )


def in_group(devices: Mapping[str, Device], group: str) -> list[Device]:
    """Return the devices of an IOMMU group, by address."""
    return [device for device in devices.values() if device.group == group]


def has_iommu(root: Path = ROOT) -> bool:
    """Tell whether the host's kernel uses an IOMMU."""
    folder = root / "sys/class/iommu"
    return folder.is_dir() and any(folder.iterdir())


def nvidia_driver(root: Path = ROOT) -> str:
    """Return the version of the host's loaded NVIDIA driver; empty when there is none."""
    if version := _text(root / "sys/module/nvidia/version"):
        return version
    found = _DRIVER_VERSION.search(_text(root / "proc/driver/nvidia/version") + " ")
    return found[1] if found else ""


def has_mig(root: Path = ROOT) -> bool:
    """Tell whether the driver has split a GPU into instances (MIG)."""
    return any((root / "proc/driver/nvidia/capabilities").glob("gpu*/mig/gi*"))


def huge_pages(root: Path = ROOT) -> tuple[int, int]:
    """Return how many huge pages are free, and their size in bytes."""
    found = dict(
        re.findall(r"^(HugePages_Free|Hugepagesize):\s+([0-9]+)", _text(root / "proc/meminfo"), re.MULTILINE)
    )
    return int(found.get("HugePages_Free", 0)), int(found.get("Hugepagesize", 0)) * 1024


def is_intel(root: Path = ROOT) -> bool:
    """Tell whether the host's CPU is Intel's, whose IOMMU wants a word on the kernel's command line."""
    return "GenuineIntel" in _text(root / "proc/cpuinfo")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _linked(path: Path) -> str:
    """Return the name of what a link leads to; empty when there is none."""
    try:
        return path.readlink().name
    except OSError:
        return ""
