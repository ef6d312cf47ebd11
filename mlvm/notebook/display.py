"""What a cell shows while a machine comes up: one display, redrawn, from the same events a terminal shows.

Events may come from any thread and by the thousand; they only change a small state here. A ticker draws it a few
times a second, so a download costs no more messages than a boot does. `text` and `html` are two views of one state.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from html import escape
from types import TracebackType
from typing import Any

from mlvm.errors import MlvmError
from mlvm.events import Observer

#: Seconds between two drawings.
TICK = 0.25
#: Lines of the guest's console that are shown while it boots.
CONSOLE_LINES = 4
#: Characters of it that are kept for that.
CONSOLE_KEPT = 4000

STYLE = "font-family: var(--jp-code-font-family, monospace); font-size: 90%; white-space: pre-wrap"


@dataclass(kw_only=True, slots=True)
class Line:
    """A stage as it stands."""

    stage: str
    detail: str
    began: float
    seconds: float | None = None
    done: int = 0
    total: int = 0


class CellProgress(Observer):
    """Shows events in the cell that runs; a context manager, so that its ticker ends with the work.

    With `live` false (a terminal cannot redraw a display) it is drawn once, at the end.
    """

    def __init__(self, title: str, *, live: bool = True) -> None:
        self.title = title
        self._live = live
        self._guard = threading.Lock()
        self._lines: list[Line] = []
        self._notes: list[str] = []
        self._console = ""
        self._failed: MlvmError | None = None
        self._over = threading.Event()
        self._handle: Any = None
        self._ticker: threading.Thread | None = None
        self._drawn = ""

    def __enter__(self) -> CellProgress:
        if self._live:
            self._draw()
            self._ticker = threading.Thread(target=self._tick, name="mlvm-progress", daemon=True)
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()
        with self._guard:
            if kind is None:
                self._console = ""
        self._draw()

    def stage_started(self, stage: str, detail: str = "") -> None:
        """Add a line."""
        with self._guard:
            self._lines.append(Line(stage=stage, detail=detail, began=time.monotonic()))
            self._console = ""

    def stage_progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """Change the stage's line."""
        with self._guard:
            if line := self._open_line(stage):
                line.done, line.total, line.detail = done, total, detail or line.detail

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        """Finish the stage's line."""
        with self._guard:
            if line := self._open_line(stage):
                line.seconds, line.detail = seconds, detail or line.detail

    def note(self, text: str) -> None:
        """Add a note below the stages."""
        with self._guard:
            self._notes.append(text)

    def console(self, text: str) -> None:
        """Keep the console's last lines."""
        with self._guard:
            self._console = (self._console + text.replace("\r", ""))[-CONSOLE_KEPT:]

    def text(self) -> str:
        """Return the state as plain text."""
        with self._guard:
            lines = [self.title]
            lines += [f"  {_mark(line)} {line.stage:<13} {_said(line)}".rstrip() for line in self._lines]
            lines += [f"  {note}" for note in self._notes]
            lines += [f"  | {line}" for line in self._console_lines()]
            return "\n".join(lines)

    def html(self) -> str:
        """Return the state as HTML; whatever comes from outside is escaped."""
        with self._guard:
            rows = "".join(_row(line) for line in self._lines)
            notes = "".join(f"<div>{escape(note)}</div>" for note in self._notes)
            console = escape("\n".join(self._console_lines()))
        shown = f'<div style="opacity: .6">{console}</div>' if console else ""
        return f'<div style="{STYLE}"><b>{escape(self.title)}</b><table>{rows}</table>{notes}{shown}</div>'

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self.html()}

    def _console_lines(self) -> list[str]:
        return [line for line in self._console.split("\n") if line.strip()][-CONSOLE_LINES:]

    def _open_line(self, stage: str) -> Line | None:
        return next(
            (line for line in reversed(self._lines) if line.stage == stage and line.seconds is None), None
        )

    def _tick(self) -> None:
        while not self._over.wait(TICK):
            self._draw()

    def _draw(self) -> None:
        """Show the state, when it differs from what is shown."""
        from IPython.display import display  # noqa: PLC0415  (the text alone needs no IPython)

        text = self.text()
        if text == self._drawn:
            return
        self._drawn = text
        bundle = {"text/plain": text, "text/html": self.html()}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)


class Table:
    """Rows for a person, as text and as HTML."""

    def __init__(self, header: tuple[str, ...], rows: list[tuple[str, ...]], *, empty: str) -> None:
        self.header = header
        self.rows = rows
        self.empty = empty

    def __repr__(self) -> str:
        if not self.rows:
            return self.empty
        widths = [max(len(row[i]) for row in (self.header, *self.rows)) for i in range(len(self.header))]
        cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in self._all()]
        return "\n".join("  ".join(row).rstrip() for row in cells)

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<div>{escape(self.empty)}</div>"
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.header)
        body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in self.rows)
        return f"<table><tr>{head}</tr>{body}</table>"

    def _all(self) -> list[tuple[str, ...]]:
        return [self.header, *self.rows]


def render(error: MlvmError) -> list[str]:
    """Return an error as a cell shows it: what the command line says, and no Python traceback."""
    parts = [f"error: {error.message}"]
    parts += [f"  {line}" for line in error.details.splitlines()]
    parts += [f"hint: {line}" for line in error.hint.splitlines()]
    return parts


def show_errors_plainly() -> None:
    """Make IPython show every error of ours by `render`; the errors themselves know nothing of notebooks."""
    setattr(MlvmError, "_render_traceback_", render)  # noqa: B010


def _mark(line: Line) -> str:
    return "✓" if line.seconds is not None else "…"


def _said(line: Line) -> str:
    """Say how a stage stands, in words."""
    if line.seconds is not None:
        return f"{line.seconds:5.1f} s  {line.detail}".rstrip()
    amount = f"{100 * line.done // line.total:3d} %" if line.total else ""
    return f"{time.monotonic() - line.began:5.0f} s  {amount}  {line.detail}".rstrip()


def _row(line: Line) -> str:
    bar = (
        f'<progress value="{line.done}" max="{line.total}"></progress>'
        if line.total and not line.seconds
        else ""
    )
    cells = (_mark(line), escape(line.stage), escape(_said(line)), bar)
    return "<tr>" + "".join(f'<td style="text-align: left">{cell}</td>' for cell in cells) + "</tr>"
