"""What a machine may take of a host that it shares, applied to its running QEMU.

None of it is on the command line: limits may change while a machine runs, and a warm state fits machines with any.
Memory is the exception. Only a machine with memory of its own (`shape.elastic`) has the device that takes it back: QEMU
gives memory back by punching holes into what backs it, and for a private map of a file (a warm machine's) that is the
file, which all others map as well. QEMU 8.2 refuses that for a file it may only read; earlier ones do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mlvm.errors import MachineError
from mlvm.machine.provider import Limits
from mlvm.machine.qemu import cpu_share
from mlvm.machine.qemu.argv import BALLOON
from mlvm.machine.qemu.qmp import Monitor
from mlvm.machine.record import Record
from mlvm.spec.document import MIB, MachineShape

#: The group that all disks of a machine are in: together they have what the machine may have.
GROUP = "machine"
#: No limit of the others.
_UNLIMITED: Mapping[str, int] = MappingProxyType(
    dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"), 0)
)


def apply(record: Record, pid: int, monitor: Monitor) -> list[str]:
    """Give a machine that has just been started the limits of its shape; return what could not be had."""
    shape = record.shape
    notes = []
    if shape.cpu_weight != cpu_share.DEFAULT or cpu_share.find_group() is not None:
        notes.append(cpu_share.give(pid, shape.cpu_weight, record.folder))
    if shape.disk_iops is not None:
        limit_disks(monitor, shape.disk_iops)
    return [f"`cpu_weight` of `{record.name}`: {note}" for note in notes if note]


def change(record: Record, pid: int, monitor: Monitor, wanted: Limits) -> None:
    """Change the limits of a running machine, until it is stopped. Raises MachineError."""
    if wanted.memory is not None:
        set_memory(monitor, record.shape, wanted.memory, name=record.name)
    if wanted.disk_iops is not None:
        limit_disks(monitor, wanted.disk_iops)
    if wanted.cpu_weight is not None and (problem := cpu_share.give(pid, wanted.cpu_weight, record.folder)):
        raise MachineError(
            f"machine `{record.name}` cannot have weight {wanted.cpu_weight}",
            details=problem,
            hint="`mlvm doctor` tells how shares are given on this host",
        )


def limit_disks(monitor: Monitor, operations: int) -> None:
    """Let all disks of a machine together do so many operations a second; 0 is any number."""
    for disk in monitor.execute("query-block"):
        if qdev := disk.get("qdev"):
            limits = {**_UNLIMITED, "iops": operations, **({"group": GROUP} if operations else {})}
            monitor.execute_with("block_set_io_throttle", {"id": qdev, **limits})


def set_memory(monitor: Monitor, shape: MachineShape, size: int, *, name: str) -> None:
    """Leave a machine `size` bytes of memory; its guest gives back the rest when it can. Raises MachineError."""
    if shape.memory_min is None:
        raise MachineError(
            f"machine `{name}` keeps the memory it has",
            details="only memory that the spec gives in bounds can go back to the host while the machine runs",
            hint="write `memory: {min: 512 MiB, max: 2 GiB}` in mlvm.yaml, then stop it and bring it up again",
        )
    if not shape.memory_min <= size <= shape.memory:
        raise MachineError(
            f"machine `{name}` can have {shape.memory_min // MIB} to {shape.memory // MIB} MiB,"
            f" and not {size // MIB}",
            hint="the bounds are `memory` in mlvm.yaml",
        )
    if not any(one["name"] == BALLOON for one in monitor.execute("qom-list", path="/machine/peripheral")):
        raise MachineError(
            f"machine `{name}` was started before its memory had bounds",
            hint=f"mlvm stop {name}, then mlvm up",
        )
    monitor.execute("balloon", value=size)
