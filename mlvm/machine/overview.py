"""All machines at a glance: what each is doing and uses, and how that went over the last minutes.

Looking never fails: a machine that cannot be read is shown as broken, with the reason. Guests are asked side by side. A
`History` makes rates from the amounts that were seen; the panel and `mlvm status --watch` are two pictures of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

from mlvm.errors import MlvmError
from mlvm.machine import record as records
from mlvm.machine import table
from mlvm.machine.provider import Condition, Provider, State
from mlvm.machine.record import Record
from mlvm.machine.usage import Usage, usage
from mlvm.paths import Home

#: Seconds between two looks at machines that somebody watches.
PERIOD = 2.0
#: Seconds that a history goes back.
KEPT = 300.0
#: Guests that are asked at the same time.
ASKED = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One machine as it was seen; without `record` and `provider` when it cannot be read."""

    name: str
    condition: Condition
    record: Record | None = None
    provider: Provider | None = None
    usage: Usage | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """What was used over the last minutes: (seconds of `time.monotonic()`, amount), oldest first."""

    points: tuple[tuple[float, float], ...] = ()

    @property
    def last(self) -> float | None:
        """The latest amount, None where there is none."""
        return self.points[-1][1] if self.points else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """CPU in processors, memory in bytes, disk and network in bytes a second."""

    cpu: Figure
    memory: Figure
    disk: Figure
    network: Figure


class History:
    """What machines were seen to use, for as long as `KEPT`; those that are gone are forgotten."""

    def __init__(self, *, kept: float = KEPT) -> None:
        self._kept = kept
        self._seen: dict[str, deque[Usage]] = {}

    def add(self, seen: Iterable[Seen]) -> None:
        """Add a look at all machines."""
        present = {one.name: one for one in seen}
        for name in set(self._seen) - set(present):
            del self._seen[name]
        for name, one in present.items():
            if one.usage is None:
                continue
            past = self._seen.setdefault(name, deque())
            past.append(one.usage)
            while past[-1].taken - past[0].taken > self._kept:
                past.popleft()

    def figures(self, name: str) -> Figures:
        """Return how it went with a machine."""
        past = list(self._seen.get(name, ()))
        return Figures(
            cpu=_rate(past, lambda one: one.cpu_seconds),
            memory=_memory(past),
            disk=_rate(past, lambda one: _sum(one.disk_read, one.disk_written)),
            network=_rate(past, lambda one: _sum(one.received, one.sent)),
        )


def look(home: Home, *, ask: bool = True, busy: Collection[str] = ()) -> list[Seen]:
    """Look at every machine, sorted by name; with `ask`, running guests are asked as well.

    Those in `busy` are not: whoever is saving a machine keeps its monitor to himself for as long as that takes.
    """
    names = records.names(home)
    if not names:
        return []
    with ThreadPoolExecutor(min(ASKED, len(names)), thread_name_prefix="mlvm-look") as pool:
        return [
            one
            for one in pool.map(lambda name: _look(home, name, ask=ask and name not in busy), names)
            if one is not None
        ]


def _look(home: Home, name: str, *, ask: bool) -> Seen | None:
    try:
        record = records.load(home, name)
        if record is None:
            return None
        provider = table.provider_for(record)
        condition = provider.state(record)
    except (MlvmError, OSError) as broken:
        said = broken.message if isinstance(broken, MlvmError) else str(broken)
        return Seen(name=name, condition=Condition(state=State.BROKEN, reasons=(said,)))
    running = condition.state is State.RUNNING
    used = usage(record, provider, ask=ask and running)
    return Seen(name=name, condition=condition, record=record, provider=provider, usage=used)


def _memory(past: list[Usage]) -> Figure:
    """Return the memory in use as the guest tells it; only of one that never has, as the host's books do.

    The two are so different that a picture of both together would show leaps that never were.
    """
    inside = [
        (one.taken, float(one.guest_memory - one.guest_available))
        for one in past
        if one.guest_memory is not None and one.guest_available is not None
    ]
    outside = [(one.taken, float(one.memory_private)) for one in past if one.memory_private is not None]
    return Figure(points=tuple(inside or outside))


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _rate(past: list[Usage], amount: Callable[[Usage], float | None]) -> Figure:
    """Return the growth of an amount a second; where it shrank, the machine was started anew and nothing is known."""
    known = [(one.taken, found) for one in past if (found := amount(one)) is not None]
    points = [
        (later, (more - less) / (later - earlier))
        for (earlier, less), (later, more) in pairwise(known)
        if later > earlier and more >= less
    ]
    return Figure(points=tuple(points))
