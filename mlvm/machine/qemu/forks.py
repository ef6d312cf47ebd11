"""What forked machines share: the disk, and while they run the RAM, of the machine they came from.

    forks/<id>/disk.img       its disk at that moment: beneath the own disk of each machine that came of it
    forks/<id>/ram.img        its RAM: mapped privately by each of them that has run ever since, never written
    forks/<id>/devices.bin    everything else QEMU knew (its migration stream without RAM)
    forks/<id>/fork.json      whose it was

As precious as the machines whose disks build on it, and as secret (0600). Nobody counts: who uses a fork is said by the
records of the machines, and who maps its RAM by their runs. So `tidy` may be called at any time, and a kill at any
moment leaves nothing that the next call does not remove.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlvm import files, process
from mlvm.errors import MachineError
from mlvm.image.usage import Item
from mlvm.machine import record as records
from mlvm.machine.qemu import host, keys, run_record
from mlvm.machine.qemu.argv import OVERLAY, RamFile, fork_disks
from mlvm.machine.record import Record
from mlvm.paths import Home
from mlvm.process import Argument

VERSION = 1
#: Makes disks that build on others.
DISK_TOOL = "qemu-img"
#: Where the machine lives meanwhile that receives another's RAM and never runs.
MAKING = "making"
RAM = "ram.img"
DEVICES = "devices.bin"
DESCRIPTION = "fork.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """A fork that is being made; `pause` is how many seconds the machine it came from stood still."""

    id: str
    folder: Path
    pause: float = 0.0

    @property
    def ram(self) -> RamFile:
        """The RAM, as a machine maps it."""
        return RamFile(path=self.folder / RAM, shared=False)


@contextmanager
def making(record: Record) -> Iterator[Fork]:
    """Yield a new fork of a machine, its folder empty; whatever uses it must be there at the end of the block.

    After an error nothing of it stays.
    """
    home = record.home
    fork = Fork(id=os.urandom(8).hex(), folder=home.forks)
    fork = Fork(id=fork.id, folder=home.forks / fork.id)
    with files.hold(_hold(home, fork.id)):
        try:
            fork.folder.mkdir(mode=0o700)
            document = {"version": VERSION, "id": fork.id, "of": record.name, "image_id": record.image_id}
            files.write_whole(fork.folder / DESCRIPTION, json.dumps(document) + "\n", mode=0o600)
            yield fork
        except BaseException:
            files.remove_tree(fork.folder)
            _hold(home, fork.id).unlink(missing_ok=True)
            raise


def make_machine(record: Record) -> None:
    """Make the folder of a forked machine, whole or not at all: a disk on top of its fork's, and keys of its own."""
    half = files.temporary_beside(record.folder)
    half.mkdir(mode=0o700)
    try:
        beneath = fork_disks(record)
        kind = "qcow2" if beneath[1:] else "raw"
        overlay = half / OVERLAY
        # Nobody need follow what the file says of the disk beneath it: QEMU is told (see `argv.overlay_args`).
        named: list[Argument] = ["-u", "-b", beneath[0], "-F", kind]
        process.run([DISK_TOOL, "create", "-q", "-f", "qcow2", *named, overlay, str(record.shape.disk)])
        overlay.chmod(0o600)
        keys.make_keys(half, record.name)
        records.save(record, folder=half)
        half.rename(record.folder)
    except BaseException:
        files.remove_tree(half)
        raise


def tidy(home: Home, *, dry_run: bool = False) -> list[Item]:
    """Remove what no machine uses any more, and return it; with `dry_run`, only return it."""
    gone: list[Item] = []
    for folder in _folders(home):
        with suppress(BlockingIOError), files.hold(_hold(home, folder.name), wait=False):
            try:
                using, mapping = _users(home, folder.name)
            except MachineError:  # a record that cannot be read may name any of them
                return gone
            doomed = [] if mapping else [path for name in (RAM, DEVICES) if (path := folder / name).exists()]
            if not using:
                gone.append(_item(folder, ()))
                if not dry_run:
                    end_receiver(receiver_of(home, folder))
                    files.remove_tree(folder)
                    _hold(home, folder.name).unlink(missing_ok=True)
            elif doomed:
                size = sum(files.disk_used(path) for path in doomed)
                gone.append(Item(kind="fork", name="RAM", id=folder.name, size=size, used_by=()))
                for path in doomed if not dry_run else ():
                    path.unlink()
    return gone


def receiver_of(home: Home, folder: Path) -> Record:
    """Return the record of whoever receives the RAM of the fork that is being made in a folder, with nothing in it."""
    elsewhere = replace(home, data=folder / MAKING)
    return Record(name=f"fork-{folder.name}", provider="qemu", image_id="", project="", home=elsewhere)


def end_receiver(record: Record) -> None:
    """End a receiver's process, and remove all of it."""
    with suppress(ValueError):
        run = run_record.load(record)
        if run is not None:
            run_record.kill(run, run.boot_id, number=signal.SIGKILL, seconds=10)
    files.remove_tree(record.home.sockets(record.name))
    files.remove_tree(record.home.data)


def items(home: Home) -> list[Item]:
    """Return the forks there are, what each takes, and whose disks build on it."""
    found = []
    for folder in _folders(home):
        with suppress(MachineError):
            using, _ = _users(home, folder.name)
            found.append(_item(folder, tuple(f"machine {name}" for name in using)))
    return found


def _item(folder: Path, used_by: tuple[str, ...]) -> Item:
    try:
        name = str(json.loads((folder / DESCRIPTION).read_text())["of"])
    except (OSError, ValueError, KeyError, TypeError):
        name = "damaged"
    return Item(kind="fork", name=name, id=folder.name, size=files.disk_used(folder), used_by=used_by)


def _users(home: Home, fork: str) -> tuple[list[str], list[str]]:
    """Return the machines whose disks build on a fork, and those that map its RAM now."""
    using, mapping = [], []
    boot_id = host.boot_id()
    for name in records.names(home):
        record = records.load(home, name)
        if record is None or fork not in record.forks:
            continue
        using.append(name)
        with suppress(ValueError):
            run = run_record.load(record)
            if run is not None and run.fork == fork and run_record.alive(run, boot_id):
                mapping.append(name)
    return using, mapping


def _folders(home: Home) -> list[Path]:
    if not home.forks.is_dir():
        return []
    return sorted(path for path in home.forks.iterdir() if path.is_dir() and not path.name.startswith("."))


def _hold(home: Home, fork: str) -> Path:
    return home.forks / ".holds" / fork
