"""Where the time of a start went: rows that add up, each on its own clock."""

from __future__ import annotations

from mlvm.events import Observer
from mlvm.machine.guest import Finished
from mlvm.machine.timings import Stopwatch, Timing, between, guest_timings, rows_of


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Heard(Observer):
    """Keeps the names of what it hears."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def stage_started(self, stage: str, detail: str = "") -> None:
        self.events.append(f"started {stage}")

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        self.events.append(f"finished {stage}")

    def note(self, text: str) -> None:
        self.events.append(text)


def host(*pairs: tuple[str, float]) -> list[Timing]:
    return [Timing(clock="host", stage=stage, seconds=seconds) for stage, seconds in pairs]


def test_every_moment_has_a_row_and_events_are_passed_on() -> None:
    clock, heard = Clock(), Heard()
    watch = Stopwatch(heard, now=clock)
    clock.seconds += 1
    watch.stage_started("build")
    clock.seconds += 2
    watch.stage_finished("build", 2)
    clock.seconds += 4
    watch.stage_started("firmware")
    clock.seconds += 8
    watch.stage_finished("firmware", 8)
    watch.stage_started("agent")
    clock.seconds += 16
    watch.stage_finished("agent", 16)
    watch.note("said")
    clock.seconds += 32

    found = watch.finish()

    assert found == host(
        ("spec, lock, plan", 1),
        ("build", 2),
        ("plan, disk, QEMU", 4),
        ("firmware", 8),
        ("agent", 16),
        ("introduction", 32),
    )
    assert heard.events == [
        "started build", "finished build", "started firmware", "finished firmware", "started agent", "finished agent",
        "said",
    ]  # fmt: skip


def test_a_stage_within_a_stage_has_its_own_time() -> None:
    clock = Clock()
    watch = Stopwatch(Observer(), now=clock)
    watch.stage_started("lock")
    clock.seconds += 1
    watch.stage_started("download")
    clock.seconds += 2
    watch.stage_finished("download", 2)
    clock.seconds += 4
    watch.stage_finished("lock", 7)

    assert watch.finish() == host(("lock", 5), ("download", 2))


def test_a_machine_that_ran_already_took_only_looking() -> None:
    clock = Clock()
    watch = Stopwatch(Observer(), now=clock)
    clock.seconds += 3

    assert watch.finish() == host(("spec, lock, plan", 3))


class Told:
    """A guest that says what it is told to."""

    def __init__(self, shown: str, **greeting: object) -> None:
        self.shown, self.greeting = shown, greeting

    def ping(self, timeout: float = 5.0) -> dict[str, object]:
        return self.greeting

    def run(self, command: list[str], **_: object) -> Finished:
        return Finished(code=0, stdout=self.shown.encode(), stderr=b"")


SHOWN = """\
UserspaceTimestampMonotonic=3000000
UnitsLoadFinishTimestampMonotonic=4500000
ExecMainStartTimestampMonotonic=5000000
"""
CONSOLE = "Linux version 6.1\r\nmlvm: stacking the layers at 2.25 s\r\n"


def test_the_guest_says_what_its_boot_was() -> None:
    found = guest_timings(Told(SHOWN, listening=5.75), CONSOLE)  # type: ignore[arg-type]

    assert [(row.clock, row.stage, row.seconds) for row in found] == [
        ("guest", "guest kernel", 2.25),
        ("guest", "initramfs", 0.75),
        ("guest", "systemd", 1.5),
        ("guest", "units before the agent", 0.5),
        ("guest", "agent", 0.75),
    ]


def test_a_guest_that_cannot_tell_is_not_guessed_at() -> None:
    assert guest_timings(Told(SHOWN), CONSOLE) == []  # type: ignore[arg-type]


def test_what_lies_around_an_unknown_moment_is_one_row() -> None:
    torn = "mlvm: stacking the [    2.26] virtio_blk virtio0: [vda]\r\n layers at 2.25 s\r\n"

    found = guest_timings(Told(SHOWN, listening=5.75), torn)  # type: ignore[arg-type]
    silent = guest_timings(Told("", listening=5.75), CONSOLE)  # type: ignore[arg-type]

    assert [(row.stage, row.seconds) for row in found[:2]] == [
        ("guest kernel + initramfs", 3.0),
        ("systemd", 1.5),
    ]
    assert [(row.stage, row.seconds) for row in silent] == [
        ("guest kernel", 2.25),
        ("initramfs + systemd + units before the agent + agent", 3.5),
    ]


def test_the_table_sums_each_clock_up() -> None:
    rows = rows_of([*host(("build", 1), ("agent", 2.5)), *between([(2.0, "guest kernel"), (2.5, "agent")])])

    assert rows == [
        ("host", "build", "   1.00"),
        ("host", "agent", "   2.50"),
        ("host", "together", "   3.50"),
        ("guest", "guest kernel", "   2.00"),
        ("guest", "agent", "   0.50"),
        ("guest", "together", "   2.50"),
    ]
