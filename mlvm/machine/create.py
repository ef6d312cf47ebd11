"""Make a machine: its folder with its record, whole or not at all. Disk and keys come to be at its first start.

A machine belongs to one project and one image for its life: its disk holds changes *to that image*, and means
nothing on top of another one. What the spec says of shape, ports and environment may change between two
starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mlvm import files
from mlvm.errors import MachineError
from mlvm.image.document import Image
from mlvm.machine import record as records
from mlvm.machine.qemu.argv import FRESH
from mlvm.machine.record import Record
from mlvm.machine.table import DEFAULT
from mlvm.paths import Home
from mlvm.spec.document import Spec


def ensure(home: Home, name: str, *, image: Image, spec: Spec, project: Path) -> Record:
    """Return the record of machine `name`, making the machine if there is none.

    Raises MachineError when the name belongs to another project, or its disk to another image.
    """
    return ensure_record(record_of(home, name, image=image, spec=spec, project=project))


def ensure_record(wanted: Record) -> Record:
    """Return the record of the machine that `wanted` describes, making it if there is none; raises as `ensure` does."""
    home, name = wanted.home, wanted.name
    with files.hold(home.machines / ".holds" / name):
        found = records.load(home, name)
        if found is None:
            _make(wanted)
            return wanted
        _check_same(found, wanted)
        kept = replace(wanted.shape, disk=found.shape.disk)  # the size it was made with
        updated = replace(found, shape=kept, network=wanted.network, ports=wanted.ports, env=wanted.env)
        updated = replace(updated, preload=wanted.preload)
        if updated != found:
            records.save(updated)
        return updated


def record_of(home: Home, name: str, *, image: Image, spec: Spec, project: Path) -> Record:
    """Return the record of a machine as it would be made now: the spec's one, or one of its several."""
    member = spec.member_called(name)
    return Record(
        name=records.check_name(name),
        provider=DEFAULT,
        image_id=image.id,
        project=str(project.absolute()),
        shape=member.shape if member else spec.machine,
        network=spec.network,
        ports=member.ports if member else spec.ports,
        env=tuple(sorted(spec.env.items())),
        preload=spec.preload,
        mac=records.new_mac(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        home=home,
    )


def forks_of(record: Record, names: Sequence[str]) -> list[Record]:
    """Return the records of machines that a fork of a machine would be. Raises MachineError when a name is taken.

    What only one machine of a host can have they have not: a hardware address, and ports of the host.
    """
    for at, name in enumerate(names):
        records.check_name(name)
        if name in names[:at] or record.home.machine(name).exists():
            raise MachineError(
                f"there is a machine `{name}` already",
                hint=f"mlvm fork {record.name} NAME, or mlvm destroy {name}",
            )
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        replace(record, name=name, mac=records.new_mac(), ports=(), created=made, fork_of=record.name)
        for name in names
    ]


def fork_names(home: Home, name: str, new: str | None, count: int) -> list[str]:
    """Return the names of `count` forks of machine `name`.

    NEW, or NEW-1, NEW-2 ... for several; without NEW what is free of NAME-2, NAME-3 ...
    """
    if new is not None:
        return [new] if count == 1 else [f"{new}-{number}" for number in range(1, count + 1)]
    free = (one for number in itertools.count(2) if not home.machine(one := f"{name}-{number}").exists())
    return list(itertools.islice(free, count))


def _make(record: Record) -> None:
    """Fill a folder beside the final one and give it its name; a half-made one is never seen."""
    home = record.home
    home.machines.mkdir(parents=True, exist_ok=True)
    half = files.temporary_beside(record.folder)
    half.mkdir(mode=0o700)
    try:
        (half / FRESH).touch()
        records.save(record, folder=half)
        if record.folder.exists():  # no record in it: left by something that is not ours to judge
            record.folder.rename(files.temporary_beside(record.folder))
        half.rename(record.folder)
    except BaseException:
        files.remove_tree(half)
        raise


def _check_same(found: Record, wanted: Record) -> None:
    """Raise MachineError unless the machine found is the one wanted."""
    if found.project != wanted.project:
        raise MachineError(
            f"machine `{found.name}` belongs to another project: `{found.project}`",
            hint=f"choose another name with `mlvm up --name NAME`, or `mlvm destroy {found.name}` first",
        )
    if found.image_id != wanted.image_id:
        raise MachineError(
            f"machine `{found.name}` was made from another image, which its disk builds on",
            details=f"its image {found.image_id[:16]}, the project's now {wanted.image_id[:16]}",
            hint=f"`mlvm destroy {found.name}` removes it with its disk; to keep it, `mlvm up --name NAME`",
        )
