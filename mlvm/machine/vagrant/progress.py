"""Vagrant's words while it brings a machine up, as the stages that every provider tells of."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from mlvm.events import Observer
from mlvm.machine.vagrant.said import parse

#: What Vagrant says when a stage begins, in its order.
BEGINNINGS = (
    (re.compile(r"Adding box|Uploading base box|Importing base box|Box '.*' could not be found"), "box"),
    (re.compile(r"Creating image|Creating domain|Starting domain|Booting VM|Resuming|Updating domain"), "firmware"),
    (re.compile(r"Waiting for domain to get an IP|Waiting for machine to boot"), "guest kernel"),
)  # fmt: skip
_PERCENT = re.compile(r"Progress: (\d+)%")
#: What it warns of, and is as it should be: our boxes are known by their digests.
_USUAL = re.compile(r"No version detected for")


class Stages:
    """Hears Vagrant line by line and tells an observer; `lines` are all of them.

    `entered` is told each stage's name before the observer is.
    """

    def __init__(self, observer: Observer, entered: Callable[[str], object] = lambda _: None) -> None:
        self._observer = observer
        self._entered = entered
        self._stage = ""
        self._began = 0.0
        self.lines: list[str] = []

    def hear(self, line: str) -> None:
        """Take one line."""
        self.lines.append(line)
        said = parse(line)
        if said is None or said.kind != "ui" or not said.words:
            return
        text = said.text
        for beginning, stage in BEGINNINGS:
            if beginning.search(text):
                self._enter(stage, text.strip().splitlines()[0])
                return
        if self._stage and (percent := _PERCENT.search(text)):
            self._observer.stage_progress(self._stage, int(percent[1]), 100)
        elif said.words[0] == "warn" and not _USUAL.search(text):
            self._observer.note(text.strip())

    def finish(self) -> None:
        """End the stage that is under way, well."""
        if self._stage:
            self._observer.stage_finished(self._stage, time.monotonic() - self._began)
            self._stage = ""

    def _enter(self, stage: str, detail: str) -> None:
        if stage != self._stage:
            self.finish()
            self._stage, self._began = stage, time.monotonic()
            self._entered(stage)
            self._observer.stage_started(stage, detail)
