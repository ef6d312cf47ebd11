"""What every provider promises, and the table of providers.

Contract, in words: a provider's methods are safe to call twice and from two processes at once (they hold the
machine's file lock); looking (`state`) never fails and never changes anything; `start` returns when the agent
in the guest has answered; after any error the next `start` works or says why it cannot.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlvm.events import Observer
    from mlvm.image.document import Image
    from mlvm.machine.guest import Guest
    from mlvm.machine.record import Record
    from mlvm.machine.usage import Usage


class State(StrEnum):
    """What a machine is doing."""

    ABSENT = "absent"
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    BROKEN = "broken"


#: A guest is there whose programs may be using something.
WORKING = frozenset({State.STARTING, State.RUNNING, State.SUSPENDED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A machine's state, and for `broken` (or a surprising state) the reasons, each a line for a person."""

    state: State
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A machine as it was, RAM and disk; `size` in bytes on the host's disk."""

    name: str
    made: datetime
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """New limits for a running machine; None leaves one as it is.

    `cpu_weight` is its share when machines compete, `disk_iops` the most disk operations a second (0: any number),
    `memory` what the guest may keep, in bytes.
    """

    cpu_weight: int | None = None
    disk_iops: int | None = None
    memory: int | None = None


def warm_allowed() -> bool:
    """Tell whether warm states may be used and made: not with `MLVM_WARM=off` in the environment."""
    return os.environ.get("MLVM_WARM", "on") != "off"


def standby_allowed() -> bool:
    """Tell whether a machine on standby may be used and made: not with `MLVM_WARM=off`, nor `MLVM_WARM=saved`."""
    return os.environ.get("MLVM_WARM", "on") not in {"off", "saved"}


def making_allowed() -> bool:
    """Tell whether either may be made in the background: not with `MLVM_WARM=use`, which takes what there is."""
    return os.environ.get("MLVM_WARM", "on") not in {"off", "use"}


class Provider(Protocol):
    """Runs machines. One object serves all machines of its kind."""

    name: str
    #: Whether its machines have folders of the host (`mlvm.machine.folders`).
    shares_folders: bool

    def state(self, record: Record) -> Condition:
        """Look; never raises."""

    def usage(self, record: Record, *, ask: bool) -> Usage | None:
        """Tell what a machine uses, asking its guest as well if told to (`mlvm.machine.usage`); never raises."""

    def start(self, record: Record, image: Image, *, observer: Observer) -> Guest:
        """Start a stopped machine (resume a suspended one; nothing for a running one); return its guest, ready."""

    def has_warm(self, record: Record, image: Image) -> bool:
        """Tell whether a fresh machine like this would start as soon as it can: nothing is left to make for that."""

    def make_warm(self, record: Record, image: Image, *, observer: Observer) -> None:
        """Make what lets fresh machines like this start warm, unless it is there; touches no machine of the user's."""

    def make_standby(
        self, record: Record, image: Image, *, rehearse: Callable[[Record], None], observer: Observer
    ) -> bool:
        """Have a machine on standby that the next fresh machine like this will be; return whether there is one.

        `rehearse` is given its record while it runs, to use it as a person would; it must leave nothing behind.
        """

    def guest(self, record: Record) -> Guest:
        """Return the guest of a running machine. Raises MachineError when it is not running."""

    def stop(self, record: Record, *, observer: Observer) -> None:
        """Shut the guest down cleanly, and by force after a deadline."""

    def suspend(self, record: Record, *, observer: Observer) -> None:
        """Save RAM and devices to disk and end the process; the next `start` goes on from there."""

    def limit(self, record: Record, wanted: Limits, *, observer: Observer) -> None:
        """Change the limits of a running machine, until it is stopped. Raises MachineError."""

    def snapshot(self, record: Record, name: str, *, observer: Observer) -> None:
        """Keep a running machine, RAM and disk, under a name; it goes on running."""

    def go_back(self, record: Record, image: Image, name: str, *, observer: Observer) -> Guest:
        """Go back to a snapshot, any number of times; return the guest, ready. Raises MachineError, nothing lost."""

    def snapshots(self, record: Record) -> list[Snapshot]:
        """Return a machine's snapshots, oldest first."""

    def forget_snapshot(self, record: Record, name: str, *, observer: Observer) -> None:
        """Remove a snapshot; the machine stays as it is."""

    def fork(
        self, record: Record, image: Image, copies: Sequence[Record], *, observer: Observer
    ) -> list[Guest]:
        """Make a running machine into more, and return their guests, ready; the machine itself goes on.

        `copies` are not there yet. Each gets all that the machine has in RAM and on disk, and an identity of its own.
        After an error there is none of them.
        """

    def destroy(self, record: Record, *, observer: Observer) -> None:
        """Stop by force and remove everything of the machine."""

    def forward(
        self, record: Record, guest_ports: Mapping[str, int], *, host_ports: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Make TCP ports of the guest reachable on 127.0.0.1; return name -> host port.

        `host_ports` names the host ports to use, where they matter: a restarted kernel keeps its own. Raises
        MachineError when one of them is taken; the others are free ones.
        """

    def unforward(self, record: Record, host_ports: Mapping[str, int]) -> None:
        """Undo `forward`; ports that are gone already are no error."""

    def ssh_command(self, record: Record) -> list[str]:
        """Return the ssh command line, host key checked, that opens a shell in the guest."""
