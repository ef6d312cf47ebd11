"""Machines on standby: restored from a warm state beforehand, paused, and nobody's until a fresh machine takes one.

    data/standby/<key>/machines/<name>/    a machine's folder, as it will be that of whoever takes it
    data/standby/<key>/paused              it is whole

What a warm start under emulation takes longest for is neither reading RAM nor running the guest, but QEMU translating
what the guest executes for the first time in that process. A machine on standby has executed it all: it has become a
machine of its own, a kernel has been claimed in it, has run cells and has ended, and the next one waits. Paused it
takes no CPU, only the memory it has touched. It is taken once, by renaming its folder; so there is nothing in it that
two machines could share. There is one for a key (see `warm.key_of`); `mlvm.background` decides when it is made, and
that it ends after an hour.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlvm import files
from mlvm.errors import MachineError
from mlvm.machine import record as records
from mlvm.machine.qemu import cpu_share, forward, host, keys, launching, qmp, run_record, sharing, warm
from mlvm.machine.qemu.argv import Launch
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import Record
from mlvm.paths import Home


@dataclass(frozen=True, kw_only=True, slots=True)
class Standby:
    """A machine on standby whose process lives."""

    key: str
    record: Record
    run: Run


def find(launch: Launch) -> Standby | None:
    """Return the machine on standby that fits a fresh machine."""
    return _load(launch.record.home, warm.key_of(launch))


def every(home: Home) -> list[Standby]:
    """Return all machines on standby."""
    found = (_load(home, path.name) for path in sorted(_root(home).glob("*")) if path.is_dir())
    return [one for one in found if one is not None]


def make(launch: Launch, introduce: Callable[[Launch], None], rehearse: Callable[[Record], None]) -> bool:
    """Have a machine on standby for fresh machines like `launch.record`; return whether there is one at the end.

    There is none when there is no warm state to make it from, or somebody else makes one just now. `introduce` starts
    it from the warm state and makes it a machine of its own; `rehearse` uses it as a person would.
    """
    home, key = launch.record.home, warm.key_of(launch)
    with suppress(BlockingIOError), files.hold(_hold(home, key), wait=False):
        if _load(home, key) is not None:
            return True
        _discard(home, key)
        record = _record(launch.record, key)
        record.folder.mkdir(parents=True, mode=0o700)
        try:
            records.save(record)
            keys.make_keys(record.folder, record.name)
            introduce(replace(launch, record=record))
            with sharing.rehearsed(record):
                rehearse(record)
            launching.guest_of(record).prepare_kernel(record.preload)
            with qmp.connect(launching.monitor_socket(record)) as monitor:
                for port in forward.rules(monitor):
                    forward.remove(monitor, port)
                monitor.execute("stop")
            _mark(home, key).touch()
        except BaseException:
            _discard(home, key)
            raise
        return True
    return False


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A fresh machine that was on standby, still paused: its record now, its run, and the folder it had before."""

    record: Record
    run: Run
    was: Path


def take(launch: Launch) -> Taken | None:
    """Make the machine on standby that fits a fresh machine that very machine.

    None when there is none, or somebody works on it. A kill in the middle costs the machine on
    standby, and perhaps the fresh one, in which there is nothing yet.
    """
    home, key = launch.record.home, warm.key_of(launch)
    with suppress(BlockingIOError), files.hold(_hold(home, key), wait=False):
        found = _load(home, key)
        if found is None:
            return None
        theirs, record = found.record, replace(launch.record, mac=found.record.mac)
        run = replace(found.run, command=launching.digest(replace(launch, record=record)), ready=False)
        records.save(record, folder=theirs.folder)  # from here on nobody takes it for one on standby
        run_record.save(theirs, run)
        keys.make_keys(theirs.folder, record.name)
        for laid in record.folder.iterdir():  # for the fresh one's first start
            if not (theirs.folder / laid.name).exists():
                laid.rename(theirs.folder / laid.name)
        sockets = home.sockets(record.name)
        files.remove_tree(sockets)
        home.sockets(theirs.name).rename(sockets)
        files.remove_tree(record.folder)
        theirs.folder.rename(record.folder)
        files.remove_tree(_folder(home, key))
        return Taken(record=record, run=run, was=theirs.folder)
    return None


def end(home: Home, *, minutes: float = 0) -> int:
    """End the machines that have been on standby for so many minutes; return how many there were."""
    ended = 0
    for path in sorted(_root(home).glob("*/")):
        key = path.name
        with suppress(BlockingIOError), files.hold(_hold(home, key), wait=False):
            there = _load(home, key) is not None
            if not there or _mark(home, key).stat().st_mtime <= time.time() - 60 * minutes:
                ended += there
                _discard(home, key)
    return ended


def _record(fresh: Record, key: str) -> Record:
    """Return the record of a machine on standby: one of the same shape, with names of its own."""
    home = fresh.home
    return replace(
        fresh,
        name=_name(key),
        mac=records.new_mac(),
        ports=(),
        shape=replace(fresh.shape, cpu_weight=cpu_share.DEFAULT, disk_iops=None),
        home=replace(home, data=_folder(home, key)),
    )


def _load(home: Home, key: str) -> Standby | None:
    """Return the machine on standby with `key`, unless it is not whole or its process has ended."""
    there = replace(home, data=_folder(home, key))
    if not _mark(home, key).exists():
        return None
    with suppress(MachineError, ValueError):
        record = records.load(there, _name(key))
        run = run_record.load(record) if record else None
        if record and run and run.ready and run_record.alive(run, host.boot_id()):
            return Standby(key=key, record=record, run=run)
    return None


def _discard(home: Home, key: str) -> None:
    """End the machine on standby with `key`, whatever has become of it, and remove what there is of it."""
    folder = replace(home, data=_folder(home, key))
    with suppress(MachineError, ValueError):
        record = records.load(folder, _name(key))
        run = run_record.load(record) if record else None
        if run is not None:
            run_record.kill(run, host.boot_id(), number=9, seconds=10)
    files.remove_tree(_folder(home, key))
    files.remove_tree(home.sockets(_name(key)))


def _name(key: str) -> str:
    return f"standby-{key[:12]}"


def _root(home: Home) -> Path:
    return home.data / "standby"


def _folder(home: Home, key: str) -> Path:
    return _root(home) / key


def _mark(home: Home, key: str) -> Path:
    return _folder(home, key) / "paused"


def _hold(home: Home, key: str) -> Path:
    return _root(home) / ".holds" / key
