"""A machine's shared folders while it runs: their server, a process that ends with QEMU, and the guest's mounts.

Both are looked at at every start, also of a machine that runs already: a server that was killed is started again, and
the guest goes on where it waited. Between a dead server and a new one the guest's connection is ended, so that no half
answer is completed by the beginning of another.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlvm import files, process
from mlvm.errors import MachineError, MlvmError
from mlvm.events import SILENT, Observer
from mlvm.machine.channel import AgentGuest
from mlvm.machine.qemu import argv, launching, qmp, run_record, state
from mlvm.machine.record import Record
from mlvm.machine.share import listed
from mlvm.machine.share.listed import Shared
from mlvm.paths import socket_path

LOG = "share.log"
#: Who serves, for which QEMU, and what the guest was told to mount.
SERVER = "share.json"
#: Seconds the server may take to start.
CONNECTED = 30.0


def serve(record: Record) -> None:
    """Have a server for a QEMU whose guest has nothing open yet, if there is need.

    A machine from standby has one already: it serves what the list says now.
    """
    known, run = _load(record), _run(record)
    there = run is not None and known.get("qemu") == run and _lives(known)
    if not listed.load(record.folder / listed.LIST):
        if there:
            _end(record, known)
    elif run is not None and not there:
        _save(record, {"qemu": run, **_start(record)})


def attach(record: Record, guest: AgentGuest, observer: Observer, *, resumed: bool = False) -> None:
    """Make the guest have the folders in the machine's list; nothing happens when it has them.

    What cannot be done is said, not raised: a machine without its folders is of use as well. `resumed` is a guest that
    may have folders open already.
    """
    told, known, run = _wanted(record), _load(record), _run(record)
    same = known.get("qemu") == run
    served = same and _lives(known)
    if run is None or (not told and not resumed and not (same and known.get("told"))):
        return
    if served and known.get("told") == told:
        return
    try:
        if not served:
            if resumed or same:
                guest.reset_shares()
            known = {"qemu": run, **_start(record)}
            _save(record, known)
        if "told" not in known:
            _wait_connected(record)
        guest.share(told)
        _save(record, {**known, "told": told})
    except MlvmError as failed:
        observer.note(f"machine `{record.name}` is without its shared folders: {failed.message}")


def untold(record: Record) -> dict[str, object]:
    """Return the folders that a guest from standby shall mount, as a field of what it is told; none needs no field."""
    known, wanted = _load(record), _wanted(record)
    return {"shares": wanted} if wanted and "told" in known and _lives(known) else {}


def note_told(record: Record, folders: dict[str, object]) -> None:
    """Take note that a guest has been told of its folders."""
    if folders:
        _save(record, {**_load(record), "told": folders["shares"]})


@contextmanager
def rehearsed(record: Record) -> Iterator[None]:
    """Have a folder in a running machine during the block, and afterwards a server that serves nothing."""
    path, guest = record.folder / listed.LIST, launching.guest_of(record)
    with tempfile.TemporaryDirectory(prefix="mlvm-rehearsal-") as folder:
        listed.save(path, [Shared(number=0, folder=folder, at="/work/rehearsal", write=True)])
        attach(record, guest, SILENT)
        yield
        listed.save(path, [])
        attach(record, guest, SILENT)
        guest.share_status()  # waits until it is unmounted
    path.unlink()


def lives(record: Record) -> bool:
    """Tell whether the server of a running machine's folders is there."""
    return _lives(_load(record))


def _wanted(record: Record) -> list[dict[str, object]]:
    """Return a machine's folders, as its guest is told of them."""
    folders = listed.load(record.folder / listed.LIST)
    return [{"number": one.number, "at": one.at, "write": one.write} for one in folders]


def _wait_connected(record: Record) -> None:
    """Wait until the server has QEMU's sockets: what the guest said before would be lost. Raises MachineError."""
    deadline = time.monotonic() + CONNECTED
    with qmp.connect(launching.monitor_socket(record)) as monitor:
        while True:
            devices = {one["label"]: str(one["filename"]) for one in monitor.execute("query-chardev")}
            if not any(devices[name].startswith("disconnected") for name in (argv.SHARE, argv.MOUNT)):
                return
            if time.monotonic() > deadline or not lives(record):
                raise MachineError(
                    "their server does not start",
                    details=state.tail(record.folder / LOG).strip(),
                    hint=f"see `{record.folder / LOG}`",
                )
            time.sleep(0.01)


def _start(record: Record) -> dict[str, object]:
    sockets = record.home.sockets(record.name)
    # Where it runs is the machine's folder: one on standby gets another name.
    command: list[str | Path] = [
        sys.executable,
        "-P",
        "-m",
        "mlvm.machine.share.server",
        listed.LIST,
        socket_path(sockets, f"{argv.SHARE}.sock"),
        socket_path(sockets, f"{argv.MOUNT}.sock"),
    ]
    log = record.folder / LOG
    log.unlink(missing_ok=True)
    child = process.start_detached(command, log_file=log, cwd=record.folder)
    # Reaps it if it ends before we do; nothing waits for this thread.
    threading.Thread(target=child.wait, name=f"share {child.pid}", daemon=True).start()
    return {"pid": child.pid, "started": run_record.start_time(child.pid) or 0}


def _end(record: Record, known: dict[str, object]) -> None:
    os.kill(int(str(known["pid"])), signal.SIGTERM)
    (record.folder / SERVER).unlink(missing_ok=True)


def _run(record: Record) -> list[int] | None:
    """Return what tells this QEMU from others; None when there is none."""
    try:
        run = run_record.load(record)
    except ValueError:
        return None
    return None if run is None else [run.pid, run.started]


def _save(record: Record, known: dict[str, object]) -> None:
    files.write_whole(record.folder / SERVER, json.dumps(known) + "\n", mode=0o600)


def _lives(known: dict[str, object]) -> bool:
    pid, started = known.get("pid"), known.get("started")
    return isinstance(pid, int) and run_record.start_time(pid) == started


def _load(record: Record) -> dict[str, object]:
    with suppress(OSError, ValueError):
        found = json.loads((record.folder / SERVER).read_text())
        if isinstance(found, dict):
            return found
    return {}


def inherit(record: Record, parent: Record) -> None:
    """Give a machine that is a copy of another, RAM and all, the folders that its guest has open."""
    listed.save(record.folder / listed.LIST, listed.load(parent.folder / listed.LIST))
