"""Where the time of a start went: `mlvm up --timings`.

Two clocks, and no mixing of them. The host's has a row for every moment from the command to its end: stages as they
are told to an observer, and what lies between them under its own name, so that the rows add up to the whole. The
guest's tells what the boot consisted of, from the guest kernel's first instruction to the agent's first word, as the
guest itself noted it; it does not see firmware, and under emulation it runs on however slowly the host lets it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlvm.errors import MachineError
from mlvm.events import Observer
from mlvm.machine.guest import Guest

#: What the host does before a stage begins that no other stage has ended for, and after the last.
BEFORE = {"": "spec, lock, plan", "firmware": "plan, disk, QEMU", "agent": "QEMU"}
AFTER = "introduction"
#: Seconds too few for a row.
NOTHING = 0.0005
#: Between the names of stages that share a row.
JOINED = " + "
#: What the initramfs says, with the guest's clock.
INITRAMFS = re.compile(r"mlvm: stacking the layers at ([\d.]+) s")
#: The guest's clock: systemd's properties in the order they come to pass, and what each ends.
MANAGER = (("UserspaceTimestampMonotonic", "initramfs"), ("UnitsLoadFinishTimestampMonotonic", "systemd"))
UNIT = ("mlvm-agent.service", "ExecMainStartTimestampMonotonic", "units before the agent")


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One row: `clock` is "host" or "guest"."""

    clock: str
    stage: str
    seconds: float


class Stopwatch(Observer):
    """Notes when stages begin and end, and passes everything on to `observer`."""

    def __init__(self, observer: Observer, *, now: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._now = now
        self._last = now()
        self._open: list[str] = []
        self._rows: list[Timing] = []

    def stage_started(self, stage: str, detail: str = "") -> None:
        """What went on until now ends."""
        self._cut(self._open[-1] if self._open else BEFORE.get(stage, BEFORE[""]))
        self._open.append(stage)
        self._observer.stage_started(stage, detail)

    def stage_progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Pass it on."""
        self._observer.stage_progress(stage, done, total, detail)

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        """The stage ends."""
        self._cut(stage)
        if stage in self._open:
            self._open.remove(stage)
        self._observer.stage_finished(stage, seconds, detail)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._observer.note(text)

    def console(self, text: str) -> None:
        """Pass it on."""
        self._observer.console(text)

    def finish(self) -> list[Timing]:
        """Return the host's rows; what came last was telling the guest who it is."""
        began = any(row.stage == "agent" for row in self._rows)
        self._cut(AFTER if began else BEFORE[""])
        return [row for row in self._rows if row.seconds >= NOTHING]

    def _cut(self, stage: str) -> None:
        """Give the time since the last cut to `stage`; a stage that another interrupted has one row."""
        now = self._now()
        seconds, self._last = now - self._last, now
        for at, row in enumerate(self._rows):
            if row.stage == stage:
                self._rows[at] = Timing(clock=row.clock, stage=stage, seconds=row.seconds + seconds)
                return
        self._rows.append(Timing(clock="host", stage=stage, seconds=seconds))


def guest_timings(guest: Guest, console: str) -> list[Timing]:
    """Ask the guest what its boot consisted of; nothing when it cannot tell any more.

    A moment that is not known (the guest kernel may say something in the middle of that line on the console) makes one
    row of what it lies between.
    """
    try:
        listening = guest.ping().get("listening")
        names = ",".join(name for name, _ in MANAGER)
        shown = guest.run(["systemctl", "show", "--property", names], user="root", timeout=60).stdout
        unit, name, ended = UNIT
        shown += guest.run(["systemctl", "show", unit, "--property", name], user="root", timeout=60).stdout
    except MachineError:
        return []
    if not isinstance(listening, float):
        return []
    found = INITRAMFS.search(console)
    properties = dict(line.partition("=")[::2] for line in shown.decode(errors="replace").splitlines())
    moments: list[tuple[float | None, str]] = [(float(found[1]) if found else None, "guest kernel")]
    for key, stage in (*MANAGER, (name, ended)):
        known = properties.get(key, "").isdigit()
        moments.append((int(properties[key]) / 1e6 if known else None, stage))
    return between([*moments, (listening, "agent")])


def between(moments: Sequence[tuple[float | None, str]]) -> list[Timing]:
    """Return the guest's rows of moments, each with what ended then; an unknown moment goes with the next."""
    rows, start, open_stages = [], 0.0, []
    for moment, stage in moments:
        open_stages.append(stage)
        if moment is not None:
            rows.append(Timing(clock="guest", stage=JOINED.join(open_stages), seconds=moment - start))
            start, open_stages = moment, []
    return rows


def rows_of(timings: list[Timing]) -> list[tuple[str, ...]]:
    """Return the cells of the table, each clock with its sum."""
    rows: list[tuple[str, ...]] = []
    for clock in ("host", "guest"):
        mine = [timing for timing in timings if timing.clock == clock]
        if mine:
            rows += [(clock, timing.stage, f"{timing.seconds:7.2f}") for timing in mine]
            rows.append((clock, "together", f"{sum(timing.seconds for timing in mine):7.2f}"))
    return rows
