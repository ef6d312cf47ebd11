"""A machine's record: what it is, in one small JSON file in its folder.

The folder is the truth. `machine.json` says what the machine is (written once, by `create`); `run.json` which
process runs it (written at every start). Whatever else is true of it (running, broken) is found by looking.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mlvm.errors import MachineError
from mlvm.files import write_whole
from mlvm.paths import Home
from mlvm.spec.document import MachineShape, PortForward

RECORD_VERSION = 1
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One machine. `project` is the folder its spec lives in; `image_id` names the image in the store.

    `preload` are the modules its first kernel is to have imported; `mac` is its network card's address.
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


def save(record: Record, *, folder: Path | None = None) -> None:
    """Write the record to its folder, or to `folder`, where it is being made; that must be there."""
    document = asdict(record)
    del document["home"]
    text = json.dumps({"version": RECORD_VERSION, **document}, indent=1) + "\n"
    write_whole((folder or record.folder) / "machine.json", text)


def load(home: Home, name: str) -> Record | None:
    """Return the record of machine `name`, or None when there is no such machine.

    Raises MachineError when it cannot be read.
    """
    path = home.machine(check_name(name)) / "machine.json"
    try:
        document = json.loads(path.read_text())
        if document.pop("version") != RECORD_VERSION:
            raise ValueError(f"record version is not {RECORD_VERSION}")
        document["shape"] = MachineShape(**document["shape"])
        document["ports"] = tuple(PortForward(**port) for port in document["ports"])
        document["env"] = tuple((key, value) for key, value in document["env"])
        document["preload"] = tuple(document.get("preload", ()))
        return Record(home=home, **document)
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
    return sorted(entry.name for entry in home.machines.iterdir() if (entry / "machine.json").is_file())
