"""What every part is given, and how it takes turns.

Contestants alternate within a round, and every second round is in reverse order, so that a host that gets busier hits
all of them alike. Before each turn written files are flushed: nobody waits for the writes of whoever came before.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from benchmarks import host
from mlvm import process
from mlvm.paths import Home

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """`runs` samples of everything are wanted; `home` is the user's own, whose downloads are used.

    `folder` is empty at the beginning and gone at the end. `notes` go into the result; `loads` is filled by `rounds`.
    """

    runs: int
    home: Home
    folder: Path
    say: Callable[[str], None]
    deadline: float = math.inf
    notes: list[str] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Have the folder of downloads, which parts put into homes of their own."""
        (self.home.store / "blobs").mkdir(parents=True, exist_ok=True)

    @property
    def kept(self) -> Path:
        """A folder that is kept for the next run."""
        return self.home.cache / "benchmarks"

    def rounds(self, contestants: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Return what each contestant answered in each of its turns; after the deadline no further round begins."""
        answers: dict[str, list[T]] = {name: [] for name in contestants}
        for number in range(self.runs):
            if number and time.monotonic() > self.deadline:
                break
            self.loads.append(host.load())
            for name in in_turn(tuple(contestants), number):
                os.sync()
                answers[name].append(contestants[name]())
                self.say(f"round {number + 1} of {self.runs}: {name}: {answers[name][-1]}")
        return answers


def environment(**more: str | Path) -> dict[str, str]:
    """Return the environment of measured programs: ours and `more`, but with bytecode, as people have it.

    Nothing is done in the background of a measurement.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "MLVM_WARM": "off", **{name: str(value) for name, value in more.items()}}


def in_turn(names: Sequence[str], number: int) -> tuple[str, ...]:
    """Return the order of round `number`, which counts from 0."""
    return tuple(names) if number % 2 == 0 else tuple(reversed(names))


def seconds_of(
    command: Sequence[process.Argument], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> float:
    """Return how long a program takes from its start to its end; it must end well."""
    began = time.monotonic()
    process.run(command, cwd=cwd, env=env, timeout=1800)
    return time.monotonic() - began
