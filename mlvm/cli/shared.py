"""What several verbs need: the observer that was asked for, the machine that is meant."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlvm.errors import MachineError, SpecError
from mlvm.events import SILENT, Observer
from mlvm.machine.record import Record, load, names
from mlvm.paths import Home
from mlvm.project import Project
from mlvm.spec.document import Spec
from mlvm.terminal import JsonObserver, LiveObserver, PlainObserver


@contextmanager
def observing(choice: str) -> Iterator[Observer]:
    """Yield the observer for `--progress CHOICE`; a live one is closed at the end."""
    if choice == "auto":
        choice = "live" if sys.stderr.isatty() else "plain"
    if choice != "live":
        yield {"plain": PlainObserver, "json": JsonObserver, "none": lambda: SILENT}[choice]()
        return
    live = LiveObserver()
    try:
        yield live
    finally:
        live.close()


def project_at(target: str | None) -> Project:
    """Return the project that `target` means from the current folder."""
    return Project.find(target, Path.cwd(), home=Home.find())


def meant(target: str | None, name: str | None) -> tuple[Project, str | None]:
    """Return the project that `mlvm up TARGET --name NAME` means, and the name.

    A target may also be one of several machines of the project that we are in.
    """
    if target is not None and name is None and (here := _several_here()) and here[1].member_called(target):
        return here[0], target
    return project_at(target), name


def machine_called(name: str | None) -> Record:
    """Return the record of machine `name`; without a name, of this project's machine, else of the only one there is.

    One of a project's several machines may be called by its own name there. Raises MachineError that names the
    machines there are.
    """
    home = Home.find()
    existing = names(home)
    if name is None:
        name = _here(home) or (existing[0] if len(existing) == 1 else None)
    elif name not in existing and (here := _several_here()) and (member := here[1].member_called(name)):
        name = here[1].machine_of(member)
    if name is None:
        raise MachineError(
            "which machine?", details=_listed(existing), hint="add its name: `mlvm status` shows all"
        )
    record = load(home, name)
    if record is None:
        raise MachineError(
            f"there is no machine `{name}`", details=_listed(existing), hint="mlvm up, then again"
        )
    return record


def machines_meant(name: str | None) -> tuple[Spec | None, list[Record]]:
    """Return the one machine that is meant, or, without a name, all of a project with several, and its spec."""
    if name is None and (here := _several_here()):
        from mlvm.group import members

        spec, records = members(here[0])
        if records:
            return spec, records
    return None, [machine_called(name)]


def _several_here() -> tuple[Project, Spec] | None:
    """Return the project that we are in and its spec, if it has several machines and can be read."""
    try:
        project = Project.find(None, Path.cwd(), home=Home.find())
        spec = project.spec()
    except SpecError:
        return None
    return (project, spec) if spec.machines else None


def _here(home: Home) -> str | None:
    try:
        project = Project.find(None, Path.cwd(), home=home)
    except SpecError:
        return None
    mine = [
        name for name in names(home) if (found := load(home, name)) and Path(found.project) == project.folder
    ]
    return mine[0] if len(mine) == 1 else None


def _listed(existing: list[str]) -> str:
    return "machines: " + ", ".join(existing) if existing else "there are no machines yet"
