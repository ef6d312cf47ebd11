"""The several machines of a project: up in their order, down in the reverse one, side by side where it allows.

`in_order` is the engine and knows nothing of machines: each name is worked on once everything it needs is done, as many
at once as the host has CPUs. After the first failure nothing new begins, what is under way ends, and whoever asked
learns what was done, what failed and what was not begun.
"""

from __future__ import annotations

import graphlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from mlvm.errors import MachineError, MlvmError
from mlvm.events import SILENT, Observer
from mlvm.machine import checks, unchanged
from mlvm.machine.record import Record, load
from mlvm.machine.table import provider_for
from mlvm.project import Project, machine_name

if TYPE_CHECKING:
    from mlvm.spec.document import Spec

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class Outcome(Generic[T]):
    """What came of a piece of work on several: by name, in the order in which each ended."""

    done: dict[str, T] = field(default_factory=dict)
    failed: dict[str, MlvmError] = field(default_factory=dict)
    left: tuple[str, ...] = ()


def in_order(
    needs: Mapping[str, Collection[str]], work: Callable[[str], T], *, at_once: int | None = None
) -> Outcome[T]:
    """Work on every name of `needs` after all that it needs; what `work` raises as MlvmError is a failure."""
    outcome: Outcome[T] = Outcome()
    waiting = graphlib.TopologicalSorter(needs)
    waiting.prepare()
    running: dict[Future[T], str] = {}
    with ThreadPoolExecutor(max_workers=at_once or os.cpu_count() or 1) as pool:
        try:
            while waiting.is_active() and not outcome.failed:
                for name in waiting.get_ready():
                    running[pool.submit(_unless_failed, outcome, work, name)] = name
                _collect(running, waiting, outcome)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        while running:
            _collect(running, waiting, outcome)
    outcome.left = tuple(name for name in needs if name not in outcome.done and name not in outcome.failed)
    return outcome


def _collect(
    running: dict[Future[T], str], waiting: graphlib.TopologicalSorter[str], outcome: Outcome[T]
) -> None:
    """Wait for the end of some of what runs, and note how it ended."""
    for ended in wait(running, return_when=FIRST_COMPLETED).done:
        name = running.pop(ended)
        try:
            outcome.done[name] = ended.result()
            waiting.done(name)
        except MlvmError as failed:
            outcome.failed[name] = failed
        except _NotBegunError:
            continue


class _NotBegunError(Exception):
    """Something else has failed while this waited for its turn."""


def _unless_failed(outcome: Outcome[T], work: Callable[[str], T], name: str) -> T:
    if outcome.failed:
        raise _NotBegunError
    return work(name)


def needed(spec: Spec, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the machines that `names` (of `spec.machines`) are and need, each with what it comes after."""
    after = {member.name: member.after for member in spec.machines}
    found: set[str] = set()
    open_ = list(names)
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += after[name]
    return {name: tuple(after[name]) for name in after if name in found}


def reverse(needs: Mapping[str, Collection[str]]) -> dict[str, tuple[str, ...]]:
    """Return the order in which things are taken down: each after all that need it."""
    return {name: tuple(other for other in needs if name in needs[other]) for name in reversed(list(needs))}


def up(
    project: Project,
    name: str | None = None,
    *,
    frozen: bool = False,
    warm: bool = True,
    here: Path | None = None,
    run_by: str | None = None,
    observer: Observer = SILENT,
) -> list[Record]:
    """Bring up the project's machines, or the one called `name` with all that it comes after; return them.

    Raises MachineError that tells which one did not come up, which were not begun, and which run.
    """
    # Only of projects with one machine anything is known without reading them.
    if unchanged.recall(project.folder, name, home=project.home) or not (spec := project.spec()).machines:
        return [project.up(name, frozen=frozen, warm=warm, here=here, run_by=run_by, observer=observer)]
    chosen = [member.name for member in spec.machines]
    if name is not None and (member := spec.member_called(machine_name(spec, name))):
        chosen = [member.name]
    needs = needed(spec, chosen)
    project.check_host(spec, list(needs), observer)
    image = project.build(frozen=frozen, observer=observer)

    def work(one: str) -> Record:
        member = spec.member_called(one)
        assert member is not None
        told = Labelled(observer, one)
        record, _ = project.start(
            spec.machine_of(member), frozen=True, warm=warm, here=here, run_by=run_by, observer=told
        )
        if member.ready is not None:
            checks.wait(record.name, provider_for(record).guest(record), member.ready, observer=told)
        return record

    outcome = in_order(needs, work)
    _explain(outcome, "did not come up", left="not started", done="running")
    records = [outcome.done[one] for one in needs]
    project.prepare_warm(records, image, warm=warm, observer=observer)
    return records


def down(
    spec: Spec, records: Sequence[Record], work: Callable[[Record, Observer], None], *, observer: Observer
) -> None:
    """Stop, suspend or destroy (`work`) machines of a project, each after all that came up after it.

    Raises MachineError that tells which one failed and which were left as they are.
    """
    by_name = {record.name: record for record in records}
    found = {spec.machine_of(member): member for member in spec.machines}
    needs = {
        name: tuple(
            other
            for each in member.after
            if (one := spec.member_called(each)) and (other := spec.machine_of(one)) in by_name
        )
        for name, member in found.items()
        if name in by_name
    }
    outcome = in_order(reverse(needs), lambda name: work(by_name[name], Labelled(observer, name)))
    _explain(outcome, "failed", left="left as they are", done="done")


def members(project: Project) -> tuple[Spec, list[Record]]:
    """Return the spec of a project with several machines and the records of those that there are."""
    spec = project.spec()
    names = [spec.machine_of(member) for member in spec.machines]
    records = (load(project.home, name) for name in names)
    return spec, [one for one in records if one is not None and one.project == str(project.folder.absolute())]


def _explain(outcome: Outcome[T], what: str, *, left: str, done: str) -> None:
    """Raise MachineError with what failed and what became of the others, if something failed."""
    if not outcome.failed:
        return
    (name, first), *others = outcome.failed.items()
    details = [first.details] if first.details else []
    details += [f"`{other}` as well: {error.message}" for other, error in others]
    for label, names in ((left, outcome.left), (done, tuple(outcome.done))):
        if names:
            details.append(f"{label}: {', '.join(names)}")
    raise MachineError(
        f"machine `{name}` {what}: {first.message}", details="\n".join(details), hint=first.hint
    )


class Labelled(Observer):
    """Passes on what is told of one of several machines, with its name in front."""

    def __init__(self, observer: Observer, name: str) -> None:
        self._observer = observer
        self._name = name

    def stage_started(self, stage: str, detail: str = "") -> None:
        """Pass it on."""
        self._observer.stage_started(f"{self._name}: {stage}", detail)

    def stage_progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Pass it on."""
        self._observer.stage_progress(f"{self._name}: {stage}", done, total, detail)

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        """Pass it on."""
        self._observer.stage_finished(f"{self._name}: {stage}", seconds, detail)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._observer.note(f"{self._name}: {text}")

    def console(self, text: str) -> None:
        """Pass it on."""
        self._observer.console(text)
