"""A suspended machine's RAM and devices, in one file of its folder.

QEMU may start no program and open no file of its own choosing, so it writes to a descriptor handed over by
QMP. The file appears under its name only when it is whole, and is removed before the machine goes on: RAM
that is older than the disk would ruin the disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from mlvm import files
from mlvm.errors import MachineError
from mlvm.machine.qemu.qmp import Monitor
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import Record

STATE = "suspended.ram"
KEY = "suspended.json"
#: Seconds that saving or restoring may take: some GiB on a slow disk.
DEADLINE = 600.0
#: Bytes a second; QEMU's own limit is meant for networks.
BANDWIDTH = 16 * 1024**3


def exists(folder: Path) -> bool:
    """Tell whether there is a saved state in a folder."""
    return (folder / STATE).exists()


def forget(folder: Path) -> None:
    """Throw the saved state away."""
    (folder / STATE).unlink(missing_ok=True)
    (folder / KEY).unlink(missing_ok=True)


def save(folder: Path, run: Run, monitor: Monitor, what: str) -> None:
    """Stop the guest and write its RAM and devices; on failure it goes on running."""
    monitor.execute("stop")
    try:
        with files.writing(folder / STATE, mode=0o600) as stream:
            send(stream, monitor, what)
            key = {name: getattr(run, name) for name in ("qemu_version", "accelerator", "command")}
            document = {**key, "ssh_port": run.ssh_port, "ports": run.ports}
            files.write_whole(folder / KEY, json.dumps(document) + "\n", mode=0o600)
    except BaseException:
        with suppress(MachineError):
            monitor.execute("cont")
        raise


def take_over(source: Path, folder: Path) -> None:
    """Give a folder the saved state of another; neither is ever written to, so both name the same bytes."""
    (folder / KEY).hardlink_to(source / KEY)
    (folder / STATE).hardlink_to(source / STATE)


def load_key(record: Record, folder: Path | None = None) -> dict[str, object]:
    """Return what the saved state (in `folder`, or the machine's own) was made with.

    Raises MachineError when it cannot be read.
    """
    try:
        document: dict[str, object] = json.loads(((folder or record.folder) / KEY).read_text())
    except (OSError, ValueError) as broken:
        raise _unusable(record, str(broken)) from None
    return document


def check_fits(record: Record, key: dict[str, object], **now: str) -> None:
    """Raise MachineError unless the saved state was made by the same QEMU with the same command line."""
    for name, words in (
        ("qemu_version", "QEMU"),
        ("accelerator", "the accelerator"),
        ("command", "the machine's shape"),
    ):
        if key.get(name) != now[name]:
            was = "" if name == "command" else f" from {key.get(name)} to {now[name]}"
            raise _unusable(record, f"{words} has changed{was}")


def restore(record: Record, monitor: Monitor) -> None:
    """Read the state into a QEMU that waits for it, and let the guest go on."""
    folder = record.folder
    with (folder / STATE).open("rb") as stream:
        receive(stream, monitor, f"cannot resume machine `{record.name}`", before=lambda: forget(folder))


def send(
    stream: IO[bytes], monitor: Monitor, what: str, *, ram: bool = True, patience: float | None = None
) -> None:
    """Write a guest to `stream`; `what` begins the MachineError when that fails.

    Without `ram`, RAM that is a shared file is left out: it is saved where it is. A guest that runs is stopped when all
    but little has been written, and at the latest after `patience` seconds.
    """
    _choose(monitor, ram=ram)
    monitor.execute("migrate-set-parameters", max_bandwidth=BANDWIDTH)
    monitor.hand_over("saved", stream.fileno())
    monitor.execute("migrate", uri="fd:saved")
    wait(monitor, what, patience=patience)


def receive(
    stream: IO[bytes],
    monitor: Monitor,
    what: str,
    *,
    ram: bool = True,
    before: Callable[[], None] = lambda: None,
) -> None:
    """Read a guest from `stream` into a QEMU that waits for it, do `before`, and let the guest go on."""
    listen(stream, monitor, ram=ram)
    wait(monitor, what)
    before()
    monitor.execute("cont")


def listen(stream: IO[bytes], monitor: Monitor, *, ram: bool = True) -> None:
    """Have a QEMU that waits for it read a guest from `stream`; `wait` tells when that is done."""
    _choose(monitor, ram=ram)
    monitor.hand_over("saved", stream.fileno())
    monitor.execute("migrate-incoming", uri="fd:saved")


def _choose(monitor: Monitor, *, ram: bool) -> None:
    """Say what is in the stream: it is written and read in different ways. QEMU keeps what it was told last."""
    capability = {"capability": "x-ignore-shared", "state": not ram}
    monitor.execute("migrate-set-capabilities", capabilities=[capability])


def wait(monitor: Monitor, what: str, *, patience: float | None = None) -> None:
    """Wait until a guest is written or read; one that runs is stopped after `patience` seconds."""
    began = time.monotonic()
    deadline = began + DEADLINE
    while (answer := monitor.execute("query-migrate")).get("status") != "completed":
        if answer.get("status") in ("failed", "cancelled"):
            raise MachineError(what, details=str(answer.get("error-desc", "")))
        if time.monotonic() > deadline:
            monitor.execute("migrate_cancel")
            raise MachineError(f"{what}: not done in {DEADLINE:.0f} s")
        if patience is not None and time.monotonic() > began + patience:
            monitor.execute("stop")
            patience = None
        time.sleep(0.01)


def _unusable(record: Record, why: str) -> MachineError:
    return MachineError(
        f"machine `{record.name}` cannot go on from where it was suspended: {why}",
        hint=f"`mlvm stop {record.name}` throws the saved state away and keeps the disk",
    )
