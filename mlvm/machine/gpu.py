"""Whether a GPU of this host can be given to a machine, and if not, the one command that mends it.

VFIO gives away whole IOMMU groups: every device in the GPU's group but bridges has to be bound to vfio-pci, since what
the group's members say to each other no IOMMU sees. The driver of a GPU that is given away runs in the machine; the
host's own driver only matters for what stays on the host. Nothing here changes the host.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from packaging.version import InvalidVersion, Version

from mlvm.errors import MachineError
from mlvm.lock.document import CudaRecord
from mlvm.machine import pci
from mlvm.machine.check import Check, Grade
from mlvm.machine.pci import VFIO, Device
from mlvm.spec.document import GIB, MachineShape

_GROUPS = "https://docs.kernel.org/driver-api/vfio.html"


def examine(root: Path = pci.ROOT, *, cuda: CudaRecord | None = None) -> list[Check]:
    """Check the GPUs of a host, and its driver against what a lock needs."""
    devices = pci.read_devices(root)
    gpus = [device for device in devices.values() if device.is_gpu]
    if not gpus:
        return [Check(name="gpu", grade=Grade.OK, found="no NVIDIA GPU; CUDA boxes run on the CPU here")]
    checks = [check_iommu(root), *(check_gpu(gpu, devices, root) for gpu in gpus)]
    if driver := check_driver(pci.nvidia_driver(root), cuda):
        checks.insert(0, driver)
    return [*checks, check_huge_pages(root, MachineShape().memory)]


def check_driver(driver: str, cuda: CudaRecord | None) -> Check | None:
    """Hold the host's driver against what CUDA needs; None without a driver."""
    name = "nvidia driver"
    if not driver:
        return None
    if cuda is None or not cuda.driver:
        return Check(name=name, grade=Grade.OK, found=driver)
    try:
        old = Version(driver) < Version(cuda.driver)
    except InvalidVersion:
        return Check(name=name, grade=Grade.WARN, found=f"`{driver[:60]}` is no version that can be compared")
    if old:
        found = f"{driver} is older than {cuda.driver}, which CUDA {cuda.version} of the lock needs"
        return Check(name=name, grade=Grade.FAIL, found=found, mend=f"install driver {cuda.driver} or newer")
    return Check(name=name, grade=Grade.OK, found=f"{driver}; CUDA {cuda.version} needs {cuda.driver}")


def check_iommu(root: Path = pci.ROOT) -> Check:
    """Tell whether there is an IOMMU; without one no device can be given away safely."""
    if pci.has_iommu(root):
        return Check(name="iommu", grade=Grade.OK, found="in use")
    word = "intel_iommu=on iommu=pt" if pci.is_intel(root) else "iommu=pt"
    return Check(
        name="iommu",
        grade=Grade.WARN,
        found="not in use: no GPU can be given to a machine",
        mend=f"switch on VT-d or AMD-Vi in the firmware, add `{word}` to GRUB_CMDLINE_LINUX, sudo update-grub, reboot",
    )


def check_gpu(gpu: Device, devices: Mapping[str, Device], root: Path = pci.ROOT) -> Check:
    """Tell whether one GPU can be given to a machine; the first obstacle is named."""
    name = f"gpu {gpu.address}"
    for found, mend in _obstacles(gpu, devices, root):
        return Check(name=name, grade=Grade.WARN, found=found, mend=mend)
    reset = (
        "" if gpu.resettable else "; it cannot be reset, so a second machine may not start without a reboot"
    )
    grade = Grade.OK if gpu.resettable else Grade.WARN
    return Check(name=name, grade=grade, found=f"{gpu.device} can be given to a machine{reset}")


def _obstacles(gpu: Device, devices: Mapping[str, Device], root: Path) -> Iterator[tuple[str, str]]:
    """Yield what keeps a GPU from being given away, the most fundamental first, each with what mends it."""
    if not gpu.group:
        yield "it is in no IOMMU group", check_iommu(root).mend
        return
    if gpu.virtual_functions:
        yield (
            f"{gpu.virtual_functions} virtual functions of it are in use",
            "give one of these to the machine instead",
        )
    if gpu.driver == "nvidia" and pci.has_mig(root):
        yield "it is split into MIG instances, which VFIO cannot give away", "sudo nvidia-smi -mig 0"
    foreign = [
        device for device in _companions(gpu, devices) if device.slot != gpu.slot and not device.is_gpu
    ]
    if foreign:
        listed = ", ".join(map(str, foreign))
        yield (
            f"IOMMU group {gpu.group} holds it together with {listed}",
            f"put the card into another slot: a group is given away whole ({_GROUPS})",
        )
    if gpu.boot_vga and gpu.driver != VFIO:
        others = [d for d in devices.values() if d.kind.startswith(pci.DISPLAY) and d.slot != gpu.slot]
        where = (
            f"make {others[0].address} the first display in the firmware"
            if others
            else "switch on the CPU's own graphics, or use this host by ssh and bind the GPU to vfio-pci at boot"
        )
        yield "the host's screen is on it", where
    unbound = [device for device in (gpu, *_companions(gpu, devices)) if device.driver != VFIO]
    if unbound:
        what = f"{unbound[0]} must be bound to {VFIO}"
        yield what, f"sudo modprobe {VFIO} && sudo driverctl set-override {unbound[0].address} {VFIO}"
    node = root / "dev/vfio" / gpu.group
    if not node.exists():
        yield f"/dev/vfio/{gpu.group} is missing", f"sudo modprobe {VFIO}"
    for path in (root / "dev/vfio/vfio", node):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            shown = "/" + str(path.relative_to(root))
            yield f"you may not use {shown}", f"sudo chown $USER {shown}"


def _companions(gpu: Device, devices: Mapping[str, Device]) -> list[Device]:
    """Return what is given away together with a GPU: the rest of its group, but no bridges."""
    return [d for d in pci.in_group(devices, gpu.group) if d.address != gpu.address and not d.is_bridge]


def check_huge_pages(root: Path, memory: int) -> Check:
    """Tell whether a machine's memory fits into huge pages; all of it is pinned when it has a GPU."""
    free, size = pci.huge_pages(root)
    found = f"{free} free of {size >> 20} MiB" if size else "none"
    wanted = -(-memory // size) if size else 0
    if free < wanted:
        found += f"; {memory / GIB:g} GiB would need {wanted}. Not needed, only quicker"
    return Check(name="huge pages", grade=Grade.OK, found=found)


def choose(count: int, *, memory: int, root: Path = pci.ROOT, locked: int | None = None) -> tuple[str, ...]:
    """Return the addresses to give to a machine with `count` GPUs: each GPU, then the rest of its group.

    `locked` is how many bytes this user may lock, by default as the system says. Raises MachineError that names what
    is in the way of each GPU.
    """
    devices = pci.read_devices(root)
    gpus = [device for device in devices.values() if device.is_gpu]
    checks = {gpu.address: check_gpu(gpu, devices, root) for gpu in gpus}
    usable = [gpu for gpu in gpus if not any(True for _ in _obstacles(gpu, devices, root))]
    if len(usable) < count:
        raise MachineError(
            f"the machine wants {count} GPU{'s' * (count > 1)} of this host, and {len(usable) or 'none'} can be given",
            details="\n".join(f"{check.name}: {check.found}" for check in checks.values())
            or "no NVIDIA GPU is here",
            hint=next((check.mend for check in checks.values() if check.mend), "`gpu: 0` in `machine`"),
        )
    _check_locked(memory, resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] if locked is None else locked)
    found: dict[str, None] = {}
    for gpu in usable:
        if len([address for address in found if devices[address].is_gpu]) >= count:
            break
        found.update(dict.fromkeys((gpu.address, *(other.address for other in _companions(gpu, devices)))))
    return tuple(found)


def _check_locked(memory: int, limit: int) -> None:
    """Raise MachineError when a machine's memory may not be pinned, which a GPU needs."""
    if os.getuid() == 0 or limit == resource.RLIM_INFINITY or limit >= memory:
        return
    raise MachineError(
        f"a GPU needs all of the machine's {memory / GIB:g} GiB pinned, and you may lock {limit / GIB:.2f} GiB",
        hint='echo "$USER - memlock unlimited" | sudo tee /etc/security/limits.d/mlvm.conf  # then log in again',
    )


def require(shape: MachineShape, cuda: CudaRecord | None, root: Path = pci.ROOT) -> str:
    """Check before anything is made that the machine's GPUs can be given; return what is worth a note, or nothing.

    Raises MachineError. `cuda` is what the lock, or the spec before there is one, needs.
    """
    old = too_old(cuda, root)
    if not shape.gpu:
        return f"the host's NVIDIA driver {old}; this machine has no GPU, and uses the CPU" if old else ""
    try:
        choose(shape.gpu, memory=shape.memory, root=root)
    except MachineError as error:
        details = "\n".join(part for part in (error.details, f"nvidia driver: {old}" if old else "") if part)
        raise MachineError(error.message, details=details, hint=error.hint) from None
    return ""


def too_old(cuda: CudaRecord | None, root: Path = pci.ROOT) -> str:
    """Return why the host's driver is too old for the lock's CUDA; empty when it is not, or when there is none."""
    check = check_driver(pci.nvidia_driver(root), cuda)
    return check.found if check is not None and check.grade is Grade.FAIL else ""
