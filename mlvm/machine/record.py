"""A machine's record: what it is, in one small JSON file in its folder.

The folder is the truth. `machine.json` says what the machine is (written once, by `create`); `run.json` which
process runs it (written at every start). Whatever else is true of it (running, broken) is found by looking.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlvm.errors import MachineError
from mlvm.files import is_temporary, write_whole
from mlvm.paths import Home
from mlvm.spec.document import MachineShape, PortForward

RECORD_VERSION = 1
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One machine. `project` is the folder its spec lives in; `image_id` names the image in the store.

    `preload` are the modules its first kernel is to have imported; `mac` is its network card's address. `forks` are the
    forks its disk builds on, the nearest first; `fork_of` is the machine it came from.
    """

    name: str
    provider: str
    image_id: str
    project: str
    shape: MachineShape = field(default_factory=MachineShape)
    network: str = "user"
    ports: tuple[PortForward, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    preload: tuple[str, ...] = ()
    mac: str = "52:54:00:12:34:56"
    created: str = ""
    forks: tuple[str, ...] = ()
    fork_of: str = ""
    home: Home = field(compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """The machine's own folder."""
        return self.home.machine(self.name)

    @property
    def console_log(self) -> Path:
        """Everything the guest's serial console has said since the last start."""
        return self.folder / "console.log"


def check_name(name: str) -> str:
    """Return `name`, or raise MachineError when it cannot be a machine's name (and a host's, and a file's)."""
    if not NAME.fullmatch(name):
        raise MachineError(
            f"`{name}` cannot be a machine's name",
            hint="lower-case letters, digits, `.`, `_` and `-`, 63 at most, starting with a letter or digit",
        )
    return name


def new_mac() -> str:
    """Return a hardware address for a network card of QEMU's."""
    return ":".join(["52", "54", "00", *(f"{octet:02x}" for octet in os.urandom(3))])


def save(record: Record, *, folder: Path | None = None) -> None:
    """Write the record to its folder, or to `folder`, where it is being made; that must be there."""
    write_whole((folder or record.folder) / "machine.json", json.dumps(document(record), indent=1) + "\n")


def document(record: Record) -> dict[str, object]:
    """Return a record as plain data, all but where it is kept."""
    fields = asdict(record)
    del fields["home"]
    return {"version": RECORD_VERSION, **fields}


def of_document(document: dict[str, Any], home: Home) -> Record:
    """Return the record that plain data means. Raises ValueError, KeyError, TypeError or AttributeError."""
    fields = dict(document)
    if fields.pop("version") != RECORD_VERSION:
        raise ValueError(f"record version is not {RECORD_VERSION}")
    fields["shape"] = MachineShape(**fields["shape"])
    fields["ports"] = tuple(PortForward(**port) for port in fields["ports"])
    fields["env"] = tuple((key, value) for key, value in fields["env"])
    fields["preload"] = tuple(fields.get("preload", ()))
    fields["forks"] = tuple(fields.get("forks", ()))
    return Record(home=home, **fields)


def load(home: Home, name: str) -> Record | None:
    """Return the record of machine `name`, or None when there is no such machine.

    Raises MachineError when it cannot be read.
    """
    path = home.machine(check_name(name)) / "machine.json"
    try:
        return of_document(json.loads(path.read_text()), home)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as broken:
        raise MachineError(
            f"the record of machine `{name}` cannot be read: {broken}",
            details=str(path),
            hint=f"mlvm destroy {name}",
        ) from None


def names(home: Home) -> list[str]:
    """Return the names of all machines, sorted."""
    if not home.machines.is_dir():
        return []
    return sorted(
        entry.name
        for entry in home.machines.iterdir()
        if not is_temporary(entry) and (entry / "machine.json").is_file()
    )
