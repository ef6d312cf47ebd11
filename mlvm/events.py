"""Progress as events to an observer.

Whoever does long work takes an `Observer` and tells it what happens; a terminal, a notebook cell and a file of
JSON lines are three observers of the same events. The base class ignores everything, so code never asks whether
anybody listens, and a new kind of event breaks no observer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

#: The stages a person waits for, in order. Time-outs, progress and `--timings` all use these words.
STAGES = (
    "lock",
    "download",
    "build",
    "pack",
    "box",
    "warm",
    "firmware",
    "guest kernel",
    "init",
    "agent",
    "ready",
    "kernel",
    "cells",
)


class Observer:
    """Hears of progress; every method does nothing unless overridden. May be called from any thread."""

    def stage_started(self, stage: str, detail: str = "") -> None:
        """A stage from `STAGES` begins; `detail` is a few words for a person."""

    def stage_progress(self, stage: str, done: int, total: int, detail: str = "") -> None:
        """`done` of `total` units are done: bytes while downloading, steps while building."""

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        """The stage is over, well; `detail` says what came of it."""

    def note(self, text: str) -> None:
        """Something worth a line that is no error: a fallback taken and why, a file written."""

    def console(self, text: str) -> None:
        """New text on the guest's console."""


#: For whoever does not listen.
SILENT = Observer()


@contextmanager
def stage(observer: Observer, name: str, detail: str = "") -> Iterator[list[str]]:
    """Tell `observer` that stage `name` runs while the block runs.

    The block may append to the yielded list: the last entry becomes the detail of `stage_finished`.
    """
    began = time.monotonic()
    outcome: list[str] = []
    observer.stage_started(name, detail)
    yield outcome
    observer.stage_finished(name, time.monotonic() - began, outcome[-1] if outcome else "")
