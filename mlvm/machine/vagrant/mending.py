"""What is put right before Vagrant is asked: what it would stumble over, or silently do wrong.

Each has been seen: a `.vagrant` that somebody deleted with the keys in it, a note of the machine that is no id (a Ruby
backtrace), a machine that libvirt has and Vagrant does not know any more, one that Vagrant knows and libvirt has not,
and half a box in libvirt's pool.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlvm import files
from mlvm.errors import MachineError
from mlvm.events import Observer
from mlvm.machine.record import Record
from mlvm.machine.vagrant import domain, layout, looking
from mlvm.paths import make_private

_BOX = "box.json"


def prepare(record: Record, vagrantfile: str, *, box: str, digest: str) -> None:
    """Write down how Vagrant shall run a machine: its Vagrantfile, and its box's name and digest."""
    make_private(layout.root(record))
    files.write_whole(layout.root(record) / _BOX, json.dumps({"name": box, "sha256": digest}) + "\n")
    files.write_whole(layout.vagrantfile(record), vagrantfile)


def box(record: Record) -> tuple[str, str]:
    """Return the name and the digest of a machine's box. Raises MachineError."""
    try:
        told = json.loads((layout.root(record) / _BOX).read_text())
        return str(told["name"]), str(told["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        raise MachineError(
            f"nothing says which box machine `{record.name}` is made from",
            hint="mlvm up --provider vagrant, which writes it anew",
        ) from None


@contextmanager
def hold_common(record: Record, observer: Observer) -> Iterator[None]:
    """Keep other machines from what all have in common, while one begins or ends: the box's volume, the network.

    The plugin takes whatever volume has the box's name, also one that another Vagrant is still writing; and who ends
    takes the network away from who has not quite begun.
    """

    def waiting() -> None:
        observer.note("another machine of Vagrant's begins or ends just now; waiting for it")

    with files.hold(record.home.machines / ".holds" / ".vagrant", waiting=waiting):
        yield


def keep_keys(record: Record) -> None:
    """Copy the machine's keys to where nobody takes them for Vagrant's rubbish."""
    _copy_keys(layout.keys(record), layout.kept_keys(record))


def restore_keys(record: Record) -> None:
    """Put the keys back whose folder was deleted; new ones would not open the machine."""
    _copy_keys(layout.kept_keys(record), layout.keys(record))


def _copy_keys(source: Path, target: Path) -> None:
    """Copy what is missing; the public halves last, since they tell that the keys are there."""
    for name in ("user", "host", "user.pub", "host.pub"):
        if (source / name).exists() and not (target / name).exists():
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write_whole(target / name, (source / name).read_bytes(), mode=0o600)


def adopt(record: Record, observer: Observer) -> None:
    """Have Vagrant's note of the machine name the domain that there is, if there is one of its name."""
    if layout.hypervisor(record) != "libvirt" or not layout.vagrantfile(record).exists():
        return
    noted = looking.vagrant_id(record)
    if noted and not layout.UUID.fullmatch(noted):
        layout.id_file(record).unlink()
        noted = ""
    found = None if noted else domain.find(layout.domain(record))
    if found is not None:
        observer.note(f"Vagrant had lost sight of machine `{record.name}`, which is there")
        files.write_whole(layout.id_file(record), found.uuid, mode=0o600)


def mend(record: Record, destroy: Callable[[], None], observer: Observer) -> None:
    """Put right what can be; `destroy` has Vagrant remove what is left of the machine."""
    if layout.hypervisor(record) != "libvirt":
        return
    adopt(record, observer)
    noted = looking.vagrant_id(record)
    if noted and domain.find(noted) is None:
        destroy()  # else its disk would be in the way of a new one
        noted = ""
    if not noted and (name := drop_half_box(record)):
        observer.note(f"libvirt's pool had half a box only, `{name}`: it is copied there again")


def drop_half_box(record: Record) -> str:
    """Remove the base volume of a machine's box if it was cut short; return its name if so."""
    if layout.hypervisor(record) != "libvirt":
        return ""
    with suppress(MachineError):
        name, _ = box(record)
        folder = layout.box_home() / name.replace("/", "-VAGRANTSLASH-")
        disks = [*folder.rglob("*.qcow2"), *folder.rglob("box.img")]
        if disks:
            return domain.drop_cut_short(name, size=disks[0].stat().st_size)
    return ""
