"""What can be done to a machine from the panel: the command line's verbs, each with the states it makes sense in.

A new button is a new line in `ACTIONS`. What loses something asks first, in the words of `asks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mlvm.errors import MachineError
from mlvm.events import Observer
from mlvm.image.document import Image
from mlvm.image.store import Store
from mlvm.machine import create
from mlvm.machine.overview import Seen
from mlvm.machine.provider import Provider, State
from mlvm.machine.record import Record
from mlvm.paths import SPEC_NAME, Home
from mlvm.project import Project

Work = Callable[[Record, Provider, Observer], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """A button: what it says and does, and when; `asks` is the question before it, with `{name}` in it."""

    verb: str
    icon: str
    tip: str
    states: frozenset[State]
    work: Work
    asks: str = ""

    def fits(self, seen: Seen) -> bool:
        """Tell whether the button is any use now."""
        return seen.record is not None and seen.condition.state in self.states


def up(record: Record, provider: Provider, observer: Observer) -> None:
    """Start a machine from its own image; where that is gone, by its project, which builds it again."""
    image = Store(record.home).find_image(record.image_id)
    if image is None and (Path(record.project) / SPEC_NAME).is_file():
        Project(folder=Path(record.project), home=record.home).up(record.name, observer=observer)
    else:
        provider.start(record, image or _image(record), observer=observer)


def bring_up(target: str, home: Home, observer: Observer) -> None:
    """Bring up a shipped box's machine, making whatever is missing."""
    Project.find(target, Path.cwd(), home=home).up(observer=observer)


def snapshot(record: Record, provider: Provider, observer: Observer, name: str | None = None) -> None:
    """Keep a machine as it is now, under a name made of the time where none is given."""
    name = name or f"{datetime.now():%Y%m%d-%H%M%S}"
    provider.snapshot(record, name, observer=observer)
    observer.note(f"machine `{record.name}` is kept as `{name}`, and goes on running")


def restore(record: Record, provider: Provider, observer: Observer, name: str) -> None:
    """Go back to a snapshot."""
    provider.go_back(record, _image(record), name, observer=observer)
    observer.note(f"machine `{record.name}` is what it was when `{name}` was saved, and runs")


def listed(record: Record, provider: Provider) -> str:
    """Say which snapshots a machine has."""
    return "snapshots: " + (", ".join(f"`{one.name}`" for one in provider.snapshots(record)) or "none")


def fork(record: Record, provider: Provider, observer: Observer) -> None:
    """Make a running machine into two."""
    copies = create.forks_of(record, create.fork_names(record.home, record.name, None, 1))
    provider.fork(record, _image(record), copies, observer=observer)
    observer.note(f"machine `{copies[0].name}` is running")


def _image(record: Record) -> Image:
    image = Store(record.home).find_image(record.image_id)
    if image is None:
        raise MachineError(
            f"the image of machine `{record.name}` is not in the store", hint=f"mlvm build {record.project}"
        )
    return image


ACTIONS = (
    Action(
        verb="up",
        icon="play",
        tip="start it; a suspended one goes on from where it was",
        states=frozenset({State.STOPPED, State.SUSPENDED}),
        work=up,
    ),
    Action(
        verb="suspend",
        icon="pause",
        tip="save its memory to disk and end it; Up goes on from there, kernels and variables included",
        states=frozenset({State.RUNNING}),
        work=lambda record, provider, observer: provider.suspend(record, observer=observer),
    ),
    Action(
        verb="snapshot",
        icon="camera",
        tip="keep it as it is now, memory and disk; it goes on running",
        states=frozenset({State.RUNNING}),
        work=snapshot,
    ),
    Action(
        verb="fork",
        icon="code-fork",
        tip="make it into two, each with all it has in memory and on disk",
        states=frozenset({State.RUNNING}),
        work=fork,
    ),
    Action(
        verb="stop",
        icon="stop",
        tip="shut it down; its disk stays",
        states=frozenset({State.RUNNING, State.STARTING}),
        work=lambda record, provider, observer: provider.stop(record, observer=observer),
        asks="Shut {name} down? Its disk stays; kernels in it and their variables are lost (suspend keeps them).",
    ),
    Action(
        verb="destroy",
        icon="trash",
        tip="remove it with its disk",
        states=frozenset({State.STOPPED, State.SUSPENDED, State.BROKEN}),
        work=lambda record, provider, observer: provider.destroy(record, observer=observer),
        asks="Destroy {name}? Its disk, snapshots and everything in it are removed for good.",
    ),
)
