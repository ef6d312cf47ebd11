"""How the command line talks: progress, errors, sizes.

Data goes to standard output, talk to standard error, so that `mlvm status --json | jq` is never in anybody's way.
Colour helps and is never needed. Three observers of the same events: live bars on a terminal, plain lines in a log,
JSON lines for programs.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING

from mlvm.errors import MlvmError
from mlvm.events import Observer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def size(count: float) -> str:
    """Write a number of bytes for a person: `76.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def printable(text: str) -> str:
    """Return a line of text without anything a terminal would obey: guests and folders have a say in some of them."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def show_error(error: MlvmError, stream: IO[str]) -> None:
    """Write an error in its three parts; the marks are coloured on a terminal."""
    red, cyan, off = ("\033[1;31m", "\033[36m", "\033[0m") if stream.isatty() else ("", "", "")
    print(f"{red}error:{off} {error.message}", file=stream)
    for line in error.details.splitlines():
        print(f"  {line}", file=stream)
    if error.hint:
        print(f"{cyan}hint:{off} {error.hint}", file=stream)


class PlainObserver(Observer):
    """One line when a stage ends, for logs and pipes."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        """Write the stage, its time and what came of it."""
        print(f"{stage:<12} {seconds:6.1f} s  {detail}".rstrip(), file=self.stream, flush=True)

    def note(self, text: str) -> None:
        """Write the note."""
        print(f"note: {text}", file=self.stream, flush=True)


class JsonObserver(Observer):
    """Every event as one JSON object a line."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream or sys.stderr
        self.guard = threading.Lock()

    def _say(self, event: str, **fields: object) -> None:
        with self.guard:
            print(json.dumps({"event": event, "time": time.time(), **fields}), file=self.stream, flush=True)

    def stage_started(self, stage: str, detail: str = "") -> None:
        """See `Observer`."""
        self._say("started", stage=stage, detail=detail)

    def stage_progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """See `Observer`."""
        self._say("progress", stage=stage, done=done, total=total, detail=detail)

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        """See `Observer`."""
        self._say("finished", stage=stage, seconds=round(seconds, 3), detail=detail)

    def note(self, text: str) -> None:
        """See `Observer`."""
        self._say("note", text=text)


class LiveObserver(Observer):
    """A line a stage with spinner, bar and time, on a terminal."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._guard = threading.RLock()

    def _live(self) -> Progress:
        if self._progress is None:
            from rich.console import Console  # noqa: PLC0415  (rich takes 60 ms to import; most commands need none)
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

            self._progress = Progress(
                SpinnerColumn(finished_text="[green]✓[/]"),
                TextColumn("{task.description:<12}"),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                TextColumn("{task.fields[detail]}", markup=False),
                console=Console(stderr=True),
            )
            self._progress.start()
        return self._progress

    def stage_started(self, stage: str, detail: str = "") -> None:
        """Begin the stage's line."""
        with self._guard:
            self._tasks[stage] = self._live().add_task(stage, total=None, detail=detail)

    def stage_progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Move the stage's bar."""
        with self._guard:
            if stage in self._tasks:
                shown = detail or (f"{size(done)} of {size(total)}" if stage == "download" else "")
                self._live().update(self._tasks[stage], completed=done, total=total, detail=shown)

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        """Fill the stage's bar."""
        with self._guard:
            if stage in self._tasks:
                self._live().update(self._tasks.pop(stage), completed=1, total=1, detail=detail)

    def note(self, text: str) -> None:
        """Write the note above the bars."""
        with self._guard:
            self._live().console.print(f"note: {text}", markup=False, highlight=False)

    def close(self) -> None:
        """Stop drawing; what was drawn stays."""
        with self._guard:
            if self._progress is not None:
                self._progress.stop()
                self._progress = None


def table(rows: Sequence[tuple[str, ...]], *, header: tuple[str, ...]) -> str:
    """Return rows as aligned columns under a header; plain text that can be cut and sorted."""
    shown = [tuple(map(printable, row)) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    return "\n".join(line.rstrip() for line in lines)
