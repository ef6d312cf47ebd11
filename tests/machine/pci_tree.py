"""Trees that look like `/sys`, `/proc` and `/dev` of hosts that nobody here has."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

GPU, SERVER_GPU, VGA_INTEL = ("0x10de", "0x030000"), ("0x10de", "0x030200"), ("0x8086", "0x030000")
AUDIO, USB, USB_C = ("0x10de", "0x040300"), ("0x10de", "0x0c0330"), ("0x10de", "0x0c8000")
BRIDGE, NVME, NIC, VGA_SERVER = ("0x8086", "0x060400"), ("0x144d", "0x010802"), ("0x8086", "0x020000"), (
    "0x1a03", "0x030000"
)  # fmt: skip


@dataclass
class Host:
    """A host that is put together by its devices."""

    root: Path
    iommu: bool = True
    slots: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.write("proc/cpuinfo", "vendor_id\t: GenuineIntel\n")
        self.write("proc/meminfo", "MemTotal: 65536000 kB\nHugePages_Free:     0\nHugepagesize:    2048 kB\n")
        if self.iommu:
            (self.root / "sys/class/iommu/dmar0").mkdir(parents=True)

    def write(self, path: str, text: str = "") -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def link(self, place: Path, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(target, place.parent))

    def add(
        self,
        address: str,
        kind: tuple[str, str],
        driver: str = "",
        group: int | None = None,
        *,
        boot: bool = False,
        reset: bool = True,
        functions: int = 0,
        physical: str = "",
    ) -> Host:
        """Add a function of a device."""
        real = self.root / "sys/devices/pci0000:00" / address
        vendor, number = kind
        for name, text in (
            ("vendor", vendor),
            ("device", "0x2204"),
            ("class", number),
            ("boot_vga", str(int(boot))),
        ):
            self.write(str((real / name).relative_to(self.root)), text + "\n")
        if reset:
            (real / "reset").touch()
        if functions:
            (real / "sriov_numvfs").write_text(f"{functions}\n")
        self.link(self.root / "sys/bus/pci/devices" / address, real)
        if driver:
            self.link(real / "driver", self.root / "sys/bus/pci/drivers" / driver)
        if group is not None:
            self.link(real / "iommu_group", self.root / "sys/kernel/iommu_groups" / str(group))
            self.link(self.root / f"sys/kernel/iommu_groups/{group}/devices" / address, real)
        if physical:
            self.link(real / "physfn", self.root / "sys/devices/pci0000:00" / physical)
        return self

    def vfio(self, *groups: int) -> Host:
        """Make the nodes that programs reach groups by."""
        for name in ("vfio", *map(str, groups)):
            self.write(f"dev/vfio/{name}")
        return self

    def nvidia(self, version: str, *, mig: bool = False) -> Host:
        """Load NVIDIA's driver."""
        self.write("sys/module/nvidia/version", version + "\n")
        if mig:
            self.write("proc/driver/nvidia/capabilities/gpu0/mig/gi1/access", "DeviceFileMinor: 12\n")
        return self
