"""What a notebook is to be run in: the box that is named, the lock that it brings, or the project beside it.

Its own lock comes before the project's: that is what its outputs were made with. Where both are there and differ, it
is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlvm.errors import LockError, SpecError
from mlvm.lock import carried
from mlvm.paths import Home
from mlvm.project import Project
from mlvm.spec.ipynb import Notebook

#: So many differences between two locks are told.
MOST_TOLD = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A project, where it came from in words, whether its lock is to be taken as it is, and what to say of it."""

    project: Project
    where: str
    frozen: bool
    notes: tuple[str, ...] = ()


def choose(notebook: Notebook, box: str | None, *, home: Home, cwd: Path) -> Source:
    """Return what `notebook` is run in. Raises SpecError when nothing says."""
    brought = carried.find(notebook)
    if box is not None:
        project = Project.find(box, cwd, home=home)
        return Source(project=project, where=f"box `{box}`", frozen=False, notes=_compared(brought, project))
    try:
        beside = Project.find(None, notebook.path.absolute().parent, home=home)
    except SpecError:
        beside = None
    if brought is not None:
        project = Project(folder=carried.unpack(brought, home), home=home)
        notes = _compared(brought, beside) if beside else ()
        return Source(project=project, where="the lock in the notebook", frozen=True, notes=notes)
    if beside is None:
        raise SpecError(
            f"nothing says what `{notebook.path.name}` ran in: it brings no lock, and there is no project beside it",
            hint=f"mlvm capture {notebook.path}, or name a box with --box",
        )
    return Source(project=beside, where=f"the project in `{beside.folder}`", frozen=False)


def _compared(brought: carried.Carried | None, project: Project) -> tuple[str, ...]:
    if brought is None:
        return ()
    try:
        lock = project.lock()
    except LockError as broken:
        return (f"the lock in the notebook is not compared: {broken.message}",)
    lines = carried.differences(brought, lock) if lock else [f"`{project.folder}` is not locked"]
    if not lines:
        return ()
    more = [f"... and {len(lines) - MOST_TOLD} more"] if len(lines) > MOST_TOLD else []
    return (
        f"the lock in the notebook and that of `{project.folder.name}` differ:",
        *lines[:MOST_TOLD],
        *more,
    )
