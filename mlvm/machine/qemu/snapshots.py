"""Snapshots: a running machine's RAM, devices and disk, kept under a name in its own folder.

    machines/NAME/snapshots/SNAPSHOT/suspended.ram, suspended.json, overlay.img

Each is what a suspended machine consists of. So going back is: put these files in the place of the machine's own, and
let it go on from where it was suspended. They are never written to, and stay until they are deleted.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mlvm import files
from mlvm.errors import MachineError
from mlvm.machine.provider import Snapshot
from mlvm.machine.qemu import saved
from mlvm.machine.qemu.argv import FRESH, OVERLAY
from mlvm.machine.qemu.qmp import Monitor
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import NAME, Record


def save(record: Record, run: Run, monitor: Monitor, name: str) -> None:
    """Keep the running machine as it is now; it goes on, whether or not that succeeds."""
    if not NAME.fullmatch(name):
        raise MachineError(
            f"`{name}` cannot be a snapshot's name", hint="lower-case letters, digits, `.`, `_` and `-`"
        )
    folder = _folder(record, name)
    if folder.exists():
        raise MachineError(
            f"machine `{record.name}` has a snapshot `{name}` already", hint=f"mlvm snapshot delete {name}"
        )
    try:
        with files.folder_whole(folder) as new:
            new.chmod(0o700)
            saved.save(new, run, monitor, f"cannot save machine `{record.name}`")
            files.copy_sparse(record.folder / OVERLAY, new / OVERLAY, mode=0o400)
    finally:
        with suppress(MachineError):
            monitor.execute("cont")


def require(record: Record, name: str) -> Path:
    """Return the folder of a snapshot, or raise MachineError that names those there are."""
    folder = _folder(record, name)
    if not NAME.fullmatch(name) or not (folder / OVERLAY).is_file():
        there = ", ".join(one.name for one in of(record)) or "none"
        raise MachineError(
            f"machine `{record.name}` has no snapshot `{name}`",
            details=f"snapshots: {there}",
            hint="mlvm snapshot save NAME",
        )
    return folder


def put_back(record: Record, name: str) -> None:
    """Make a machine that does not run the suspended one that it was."""
    folder = require(record, name)
    saved.forget(record.folder)
    (record.folder / FRESH).unlink(missing_ok=True)
    files.copy_sparse(folder / OVERLAY, record.folder / OVERLAY, mode=0o600)
    saved.take_over(folder, record.folder)


def of(record: Record) -> list[Snapshot]:
    """Return a machine's snapshots, oldest first."""
    folders = record.folder / "snapshots"
    found = [
        Snapshot(
            name=folder.name,
            made=datetime.fromtimestamp((folder / OVERLAY).stat().st_mtime, UTC),
            size=files.disk_used(folder),
        )
        for folder in (folders.iterdir() if folders.is_dir() else ())
        if not files.is_temporary(folder) and (folder / OVERLAY).is_file()
    ]
    return sorted(found, key=lambda one: (one.made, one.name))


def delete(record: Record, name: str) -> None:
    """Remove a snapshot."""
    files.remove_tree(require(record, name))


def _folder(record: Record, name: str) -> Path:
    return record.folder / "snapshots" / name
