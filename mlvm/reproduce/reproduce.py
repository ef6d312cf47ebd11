"""`mlvm reproduce`: the machine, the run, the comparison, the report."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import mlvm
from mlvm.errors import LockError
from mlvm.events import SILENT, Observer
from mlvm.machine import record as records
from mlvm.machine.create import fork_names
from mlvm.machine.record import Record
from mlvm.machine.table import provider_for
from mlvm.paths import Home
from mlvm.project import Project, machine_name
from mlvm.reproduce import cells, running
from mlvm.reproduce.document import CellReport, Report, Tolerance, Verdict, outcome_of
from mlvm.reproduce.source import choose
from mlvm.spec import ipynb
from mlvm.spec.ipynb import Notebook


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """How a notebook is to be run again; `timeout` are the seconds of a cell."""

    box: str | None = None
    machine: str | None = None
    keep: bool = False
    frozen: bool = False
    timeout: float = 3600.0
    tolerance: Tolerance = field(default_factory=Tolerance)


def reproduce(
    path: Path, wish: Wish, *, home: Home, cwd: Path, observer: Observer = SILENT
) -> tuple[Report, Notebook]:
    """Run notebook `path` again; return what came of it, and the notebook with its new outputs, written nowhere.

    Raises MlvmError when it cannot be run at all.
    """
    notebook = ipynb.read(path)
    if notebook.language != "python":
        raise LockError(f"`{path.name}` is a notebook in {notebook.language}; boxes run Python")
    source = choose(notebook, wish.box, home=home, cwd=cwd)
    for note in source.notes:
        observer.note(note)
    began, stamp = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    folder = path.absolute().parent
    name = _name(source.project, wish.machine)
    frozen = wish.frozen or source.frozen
    with _machine(
        source.project, name, frozen=frozen, keep=wish.keep, here=folder, observer=observer
    ) as record:
        run = running.run(
            notebook.content,
            project=source.project.folder,
            machine=record.name,
            cwd=folder,
            timeout=wish.timeout,
            observer=observer,
        )
    stored, now = cells.code_cells(notebook.content), cells.code_cells(run.content)
    judged = tuple(cells.judge(stored, now, ran=run.ran, stopped=run.stopped, tolerance=wish.tolerance))
    report = Report(
        notebook=str(path),
        outcome=outcome_of(judged),
        box=source.where,
        machine=name,
        lock_sha256=hashlib.sha256(source.project.lock_path.read_bytes()).hexdigest(),
        mlvm=mlvm.__version__,
        began=stamp,
        seconds=round(time.monotonic() - began, 1),
        tolerance=wish.tolerance,
        cells=judged,
        notes=(*source.notes, *_remarks(judged)),
        counts={verdict.value: count for verdict, count in Counter(one.verdict for one in judged).items()},
    )
    return report, replace(notebook, content=run.content)


def _name(project: Project, asked: str | None) -> str:
    """Return the machine's name: the one asked for, else that of a machine that is not there yet."""
    spec = project.spec()
    if asked or spec.machines:
        return machine_name(spec, asked)
    name = f"{spec.name[:48]}-reproduce"
    return name if not project.home.machine(name).exists() else fork_names(project.home, name, None, 1)[0]


@contextmanager
def _machine(
    project: Project, name: str, *, frozen: bool, keep: bool, here: Path, observer: Observer
) -> Iterator[Record]:
    """Bring up the machine; one that was not there before is destroyed at the end, unless it is to be kept."""
    ours = records.load(project.home, name) is None
    record = project.up(name, frozen=frozen, here=here, observer=observer)
    if not ours:
        observer.note(f"machine `{name}` was there before, with what has been done in it")
    try:
        yield record
    finally:
        if ours and not keep:
            provider_for(record).destroy(record, observer=observer)


def _remarks(judged: tuple[CellReport, ...]) -> list[str]:
    if judged and all(one.verdict in {Verdict.NOT_STORED, Verdict.NOT_COMPARED} for one in judged):
        return ["the notebook has no outputs to compare with: it ran, and that is all that is known"]
    return []
