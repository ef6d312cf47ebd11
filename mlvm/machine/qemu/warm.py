"""Warm states: a booted guest whose kernel waits, kept once, copied for every fresh machine.

    store/warm/<key>/ram.img        its RAM: mapped privately by every machine that came from it, never written
    store/warm/<key>/devices.bin    everything else QEMU knows (its migration stream without RAM)
    store/warm/<key>/overlay.img    the disk at that moment
    store/warm/<key>/vmlinuz        the beginning of its guest kernel, which is all that QEMU looks at again
    store/warm/<key>/warm.json      what it belongs to, and sizes and digests to know it by

A cache, and as secret as a machine (0600). The key holds everything that must be the same for a state to fit: the
image, the command line, the modules, QEMU and, where the guest sees the host's own CPU, that. A guest in a warm state
has no identity yet: no keys, no name, no machine id; each copy gets its own before anybody can reach it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mlvm import files
from mlvm.errors import MachineError
from mlvm.events import Observer, stage
from mlvm.image.overlay import make_overlay
from mlvm.image.store import Store
from mlvm.machine.qemu import argv, launching, qmp, ready, run_record, saved
from mlvm.machine.qemu.argv import OVERLAY, Launch, RamFile
from mlvm.machine.qemu.host import Accelerator
from mlvm.machine.record import Record
from mlvm.paths import Home

VERSION = 1
RAM = "ram.img"
DEVICES = "devices.bin"
KERNEL = "vmlinuz"
#: Bytes of a guest kernel in which its header and set-up code end.
HEADER = 64 * 1024
DESCRIPTION = "warm.json"
#: Seconds a booted guest has to finish what it began at boot, before it is saved.
SETTLE = 300.0
#: Seconds in which a restored agent answers, or the state is no good.
LIMITS = {"agent": 20.0}
#: Stand-ins for what differs between machines of one shape.
_ANY_MAC = "52:54:00:00:00:00"
_ANYWHERE = Path("/")


@dataclass(frozen=True, kw_only=True, slots=True)
class WarmState:
    """A warm state that is whole."""

    key: str
    folder: Path

    @property
    def ram(self) -> RamFile:
        """The RAM, as a machine maps it."""
        return RamFile(path=self.folder / RAM, shared=False, booted=self.folder / KERNEL)


def key_of(launch: Launch) -> str:
    """Return the key of the warm state that fits a launch: 64 hex digits."""
    record = launch.record
    anybody = replace(
        record,
        name="warm",
        home=Home(data=_ANYWHERE, cache=_ANYWHERE, runtime=_ANYWHERE),
        mac=_ANY_MAC,
        ports=(),
        forks=(),
        fork_of="",
    )
    alike = replace(launch, record=anybody, incoming=False, ram=RamFile(path=_ANYWHERE, shared=False))
    binary = Path(launch.host.qemu).resolve().stat()
    document = {
        "version": VERSION,
        "command": argv.command_line(alike),
        "qemu": [launch.host.qemu_version, binary.st_size, binary.st_mtime_ns],
        "host cpu": _host_cpu() if launch.accelerator is Accelerator.KVM else "",
        "image": launch.image.digests(),
        "disk": record.shape.disk,
        "env": record.env,
        "preload": record.preload,
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _host_cpu() -> str:
    """Return what the guest sees of the host's CPU under KVM."""
    lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    return "\n".join(
        line for line in lines if line.startswith(("model name", "stepping", "flags", "microcode"))
    )


def find(launch: Launch) -> tuple[WarmState | None, str]:
    """Return the warm state that fits, or None and why there is none, in words for a person."""
    key = key_of(launch)
    folder = _folder(launch.record.home, key)
    try:
        described = json.loads((folder / DESCRIPTION).read_text())
        for name, status in described["files"].items():
            if status != _status(folder / name):
                return None, f"its {name} is not what was saved"
    except FileNotFoundError:
        return None, "this image has none yet for this shape"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as broken:
        return None, f"it cannot be read: {broken}"
    return WarmState(key=key, folder=folder), ""


def discard(found: WarmState) -> None:
    """Throw a warm state away that turned out to be no good; machines that run from it keep what they map."""
    files.remove_tree(found.folder)


def take_disk(found: WarmState, path: Path) -> None:
    """Make `path` the disk that fits the RAM, replacing what is there."""
    files.copy_sparse(found.folder / OVERLAY, path, mode=0o600)


def restore(found: WarmState, monitor: qmp.Monitor, record: Record) -> None:
    """Let a QEMU that waits, with the state's RAM mapped, go on from there."""
    with (found.folder / DEVICES).open("rb") as stream:
        saved.receive(stream, monitor, f"cannot restore machine `{record.name}`", ram=False)


def make(launch: Launch, *, observer: Observer) -> WarmState:
    """Boot a machine of nobody's, have its kernel ready, and save it; return at once when there is such a state.

    Raises what booting raises, and GuestError when a module of `preload` cannot be imported.
    """
    home, key = launch.record.home, key_of(launch)
    folder = _folder(home, key)
    waiting = lambda: observer.note("another mlvm makes this warm state; waiting for it")  # noqa: E731
    with Store(home).building(), files.hold(home.store / "holds" / f"warm-{key}", waiting=waiting):
        found, _ = find(launch)
        if found is not None:
            return found
        files.remove_tree(folder)
        with files.folder_whole(folder) as new, stage(observer, "warm", launch.record.name):
            _make(launch, new, key, observer)
    found, why = find(launch)
    if found is None:
        raise MachineError(f"the warm state was made, and cannot be used: {why}", hint="mlvm build --warm")
    return found


def _make(launch: Launch, folder: Path, key: str, observer: Observer) -> None:
    folder.chmod(0o700)
    work = folder / "making"
    home = replace(launch.record.home, data=work)
    record = replace(launch.record, name=f"warm-{key[:12]}", home=home, mac=_ANY_MAC, ports=())
    record.folder.mkdir(parents=True, mode=0o700)
    make_overlay(record.folder / OVERLAY, size=record.shape.disk, tools=launch.image.tools)
    ram = folder / RAM
    with ram.open("xb") as stream:
        ram.chmod(0o600)
        stream.truncate(record.shape.memory)
    launch = replace(launch, record=record, incoming=False, ram=RamFile(path=ram, shared=True))
    with _running(launch, observer):
        guest = launching.guest_of(record)
        guest.prepare_kernel(record.preload)
        # What a boot leaves running would run in every copy.
        guest.run(["systemctl", "is-system-running", "--wait"], user="root", timeout=SETTLE)
        guest.sync()
        with qmp.connect(launching.monitor_socket(record)) as monitor:
            monitor.execute("stop")
            with files.writing(folder / DEVICES, mode=0o600) as stream:
                saved.send(stream, monitor, "cannot save the warm state", ram=False)
    (record.folder / OVERLAY).rename(folder / OVERLAY)
    files.remove_tree(work)
    with launch.image.vmlinuz.path.open("rb") as kernel:
        files.write_whole(folder / KERNEL, kernel.read(HEADER), mode=0o600)
    for name in (
        DEVICES,
        OVERLAY,
        KERNEL,
    ):  # not the RAM: QEMU before 8.2 maps privately only what it may open for writing
        (folder / name).chmod(0o400)
    document = {
        "version": VERSION,
        "key": key,
        "name": launch.image.name,
        "image_id": launch.image.id,
        "memory": record.shape.memory,
        "preload": record.preload,
        "files": {name: _status(folder / name) for name in (RAM, DEVICES, OVERLAY, KERNEL)},
    }
    files.write_whole(folder / DESCRIPTION, json.dumps(document, indent=1) + "\n", mode=0o600)


@contextmanager
def _running(launch: Launch, observer: Observer) -> Iterator[None]:
    """Boot a machine for the block, and end it by force: nothing of it is anybody's."""
    record = launch.record
    try:
        run = launching.spawn(launch)
        limits = ready.LIMITS[launch.accelerator]
        launching.wait_ready(record, run, observer, limits=limits, first="firmware")
        yield
    finally:
        with_run = run_record.load(record)
        if with_run is not None:
            run_record.kill(with_run, with_run.boot_id, number=9, seconds=10)
        files.remove_tree(record.home.sockets(record.name))


def _folder(home: Home, key: str) -> Path:
    return Store(home).warm / key


def _status(path: Path) -> list[int]:
    """Return what changes when a file is written to: its size and when that was."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
