"""Make a machine: its folder with record, disk and keys, whole or not at all.

A machine belongs to one project and one image for its life: its disk holds changes *to that image*, and means
nothing on top of another one. What the spec says of shape, ports and environment may change between two
starts.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from mlvm import files
from mlvm.errors import MachineError
from mlvm.image.document import Image
from mlvm.image.overlay import make_overlay
from mlvm.machine import record as records
from mlvm.machine.qemu import keys
from mlvm.machine.qemu.argv import FRESH, OVERLAY
from mlvm.machine.record import Record
from mlvm.machine.table import DEFAULT
from mlvm.paths import Home
from mlvm.spec.document import Spec


def ensure(home: Home, name: str, *, image: Image, spec: Spec, project: Path) -> Record:
    """Return the record of machine `name`, making the machine if there is none.

    Raises MachineError when the name belongs to another project, or its disk to another image.
    """
    wanted = record_of(home, name, image=image, spec=spec, project=project)
    with files.hold(home.machines / ".holds" / name):
        found = records.load(home, name)
        if found is None:
            _make(wanted, image)
            return wanted
        _check_same(found, wanted)
        # The disk keeps the size it was made with.
        kept = replace(found.shape, cpus=wanted.shape.cpus, memory=wanted.shape.memory)
        updated = replace(found, shape=kept, network=wanted.network, ports=wanted.ports, env=wanted.env)
        updated = replace(updated, preload=wanted.preload)
        if updated != found:
            records.save(updated)
        return updated


def record_of(home: Home, name: str, *, image: Image, spec: Spec, project: Path) -> Record:
    """Return the record of a machine as it would be made now."""
    return Record(
        name=records.check_name(name),
        provider=DEFAULT,
        image_id=image.id,
        project=str(project.absolute()),
        shape=spec.machine,
        network=spec.network,
        ports=spec.ports,
        env=tuple(sorted(spec.env.items())),
        preload=spec.preload,
        mac=_new_mac(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        home=home,
    )


def _make(record: Record, image: Image) -> None:
    """Fill a folder beside the final one and give it its name; a half-made one is never seen."""
    home = record.home
    home.machines.mkdir(parents=True, exist_ok=True)
    half = files.temporary_beside(record.folder)
    half.mkdir(mode=0o700)
    try:
        make_overlay(half / OVERLAY, size=record.shape.disk, tools=image.tools)
        keys.make_keys(half, record.name)
        (half / FRESH).touch()
        records.save(record, folder=half)
        if record.folder.exists():  # no record in it: left by something that is not ours to judge
            record.folder.rename(files.temporary_beside(record.folder))
        half.rename(record.folder)
    except BaseException:
        files.remove_tree(half)
        raise


def _new_mac() -> str:
    """Return a hardware address for a network card of QEMU's."""
    return ":".join(["52", "54", "00", *(f"{octet:02x}" for octet in os.urandom(3))])


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
