"""Where things are of a machine that Vagrant runs: every name once.

Vagrant has a folder of its own inside the machine's, with a Vagrantfile that nobody else uses; so two projects whose
folders have one name never meet, and what Vagrant remembers goes with the machine.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from mlvm.errors import MachineError
from mlvm.machine.record import Record

#: What runs machines for Vagrant unless the machine's record says otherwise: `vagrant:virtualbox`.
HYPERVISOR = "libvirt"
#: Those that a machine's keys can be given to before anybody connects (see the Vagrantfile).
HYPERVISORS = ("libvirt", "virtualbox", "vmware_desktop", "qemu")
#: Vagrant's name for the one machine of a Vagrantfile.
MACHINE = "default"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def hypervisor(record: Record) -> str:
    """Return what runs the machine for Vagrant. Raises MachineError for one that none of ours can run on."""
    found = record.provider.partition(":")[2] or HYPERVISOR
    if found not in HYPERVISORS:
        raise MachineError(
            f"`{found}` is not a provider of Vagrant's that mlvm drives",
            hint=f"one of these: {', '.join(f'--provider vagrant:{one}' for one in HYPERVISORS)}",
        )
    return found


def root(record: Record) -> Path:
    """Return Vagrant's folder: where the Vagrantfile is."""
    return record.folder / "vagrant"


def vagrantfile(record: Record) -> Path:
    """Return the machine's Vagrantfile."""
    return root(record) / "Vagrantfile"


def box_file(record: Record) -> Path:
    """Return where a box lies that Vagrant has not taken yet."""
    return root(record) / "new.box"


def id_file(record: Record) -> Path:
    """Return the file in which Vagrant keeps the hypervisor's name for the machine."""
    return root(record) / ".vagrant" / "machines" / MACHINE / hypervisor(record) / "id"


def keys(record: Record) -> Path:
    """Return the folder of the keys that the Vagrantfile makes."""
    return root(record) / ".vagrant" / "mlvm"


def kept_keys(record: Record) -> Path:
    """Return the folder with a second copy of these keys; without them nobody gets into the machine any more."""
    return record.folder / "keys"


def seed_folder(record: Record) -> Path:
    """Return where the Vagrantfile puts what a hypervisor must read when the machine's own folder is closed to it."""
    here = os.path.realpath(root(record)) + "/.vagrant/mlvm"
    return Path("/var/tmp") / f"mlvm-{hashlib.sha256(here.encode()).hexdigest()[:16]}"  # noqa: S108


def domain(record: Record) -> str:
    """Return libvirt's name for the machine, as the Vagrantfile makes it."""
    folder = os.path.realpath(root(record))
    return f"{record.name}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}-{MACHINE}"


def ready_file(record: Record) -> Path:
    """Return the note of the run whose agent has answered."""
    return record.folder / "ready.json"


def ssh_config(record: Record) -> Path:
    """Return the machine's ssh_config."""
    return record.folder / "ssh_config"


def tunnel_log(record: Record) -> Path:
    """Return what ssh says."""
    return record.folder / "tunnel.log"


def box_home() -> Path:
    """Return where Vagrant keeps boxes."""
    return Path(os.environ.get("VAGRANT_HOME") or "~/.vagrant.d").expanduser() / "boxes"


def has_box(name: str, provider: str) -> bool:
    """Tell whether Vagrant has a box, without starting Ruby; newer versions have a folder more, for the processor."""
    folder = box_home() / name.replace("/", "-VAGRANTSLASH-")
    patterns = (f"*/{provider}/metadata.json", f"*/*/{provider}/metadata.json")
    return any(True for pattern in patterns for _ in folder.glob(pattern))
