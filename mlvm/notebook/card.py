"""One machine in the panel: its title, buttons, facts, plots, what is being done to it, its console on demand.

A card is made once and then only changed: an attribute that stays the same costs no message to the browser. It has no
state of its own but what its reader has opened: the question that waits for an answer, and the console.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ipywidgets import HTML, Button, HBox, Layout, VBox

from mlvm.machine.overview import Seen
from mlvm.notebook import panel_html
from mlvm.notebook.actions import ACTIONS, Action
from mlvm.notebook.watcher import Job, View, Watcher

Pressed = Callable[[Button], None]


def button(text: str, pressed: Pressed, *, icon: str = "", tip: str = "", look: str = "") -> Button:
    """Return a button; `look` is one more class of its style."""
    made = Button(description=text, icon=icon, tooltip=tip)
    if look:
        made.add_class(look)
    made.on_click(pressed)
    return made


class Card:
    """The card of machine `name`; `box` is its widget."""

    def __init__(self, name: str, watcher: Watcher, *, touched: Callable[[], None]) -> None:
        self.name = name
        self._watcher = watcher
        self._touched = touched
        self._asked: Action | None = None
        self._console_open = False
        self._guard = threading.Lock()
        self._seen: Seen | None = None
        self.title = HTML(layout=Layout(flex="1 1 200px", min_width="0"))
        self.buttons = {
            action.verb: button(
                action.verb.capitalize(), self._presser(action), icon=action.icon, tip=action.tip
            )
            for action in ACTIONS
        }
        self.log = button(
            "Console", self._toggle_console, icon="terminal", tip="the last lines of its console"
        )
        self.facts, self.plots, self.work, self.console = HTML(), HTML(), HTML(), HTML()
        self.question = HTML(layout=Layout(flex="1 1 auto"))
        self.yes = button("", self._confirm, look="mlvm-danger")
        self.no = button("Cancel", self._cancel)
        self.ask = HBox(
            [self.question, self.yes, self.no], layout=Layout(align_items="center", margin="6px 0 0")
        )
        self.dismiss = button("Dismiss", lambda _: watcher.dismiss(name))
        row = HBox([*self.buttons.values(), self.log], layout=Layout(flex="0 1 auto", flex_flow="row wrap"))
        head = HBox([self.title, row], layout=Layout(align_items="center", flex_flow="row wrap"))
        self.box = VBox(
            [head, self.facts, self.plots, self.work, self.dismiss, self.ask, self.console],
            layout=Layout(width="auto"),
        )
        self.box.add_class("mlvm-card")

    def draw(self, seen: Seen, view: View) -> None:
        """Show a machine as it was seen."""
        with self._guard:
            self._seen = seen
            job = view.jobs.get(self.name)
            busy = job is not None and not job.over
            self.title.value = panel_html.title(seen)
            self.facts.value = panel_html.facts(seen) + panel_html.reasons(seen)
            self.plots.value = panel_html.plots(seen, self._watcher.history.figures(self.name))
            self.work.value = work(job)
            show(self.dismiss, job is not None and job.error is not None)
            for action in ACTIONS:
                show(self.buttons[action.verb], action.fits(seen))
                self.buttons[action.verb].disabled = busy or self._asked is not None
            show(self.log, seen.record is not None)
            if self._asked is not None and (busy or not self._asked.fits(seen)):
                self._asked = None
            self._draw_question()
            self._draw_console()

    def close(self) -> None:
        """Close every widget of the card."""
        close_all(self.box)

    def _presser(self, action: Action) -> Pressed:
        return lambda _: self._press(action)

    def _press(self, action: Action) -> None:
        self._touched()
        with self._guard:
            if action.asks:
                self._asked = action
                for one in self.buttons.values():
                    one.disabled = True
                self._draw_question()
                return
        self._do(action)

    def _confirm(self, _: Button) -> None:
        with self._guard:
            action, self._asked = self._asked, None
            self._draw_question()
        if action is not None:
            self._do(action)

    def _cancel(self, _: Button) -> None:
        with self._guard:
            self._asked = None
            self._draw_question()
            for one in self.buttons.values():
                one.disabled = False

    def _do(self, action: Action) -> None:
        """Begin it, unless something is being done already or the machine has gone on since."""
        seen = self._seen
        if seen is None or seen.record is None or seen.provider is None or not action.fits(seen):
            return
        record, provider = seen.record, seen.provider
        for one in self.buttons.values():
            one.disabled = True
        self._watcher.begin(self.name, action.verb, lambda observer: action.work(record, provider, observer))

    def _toggle_console(self, _: Button) -> None:
        self._touched()
        with self._guard:
            self._console_open = not self._console_open
            self._draw_console()

    def _draw_console(self) -> None:
        record = self._seen.record if self._seen else None
        shown = self._console_open and record is not None
        self.console.value = panel_html.console(record.console_log) if shown and record else ""
        show(self.console, shown)

    def _draw_question(self) -> None:
        show(self.ask, self._asked is not None)
        if self._asked is not None:
            self.question.value = panel_html.question(self._asked.asks, self.name)
            self.yes.description = self._asked.verb.capitalize()


def work(job: Job | None) -> str:
    """Return what is being done to a machine, or has failed."""
    if job is None:
        return ""
    said = job.progress.html() if job.error is None else panel_html.failure(job.error)
    return f'<div class="mlvm-work">{said}</div>'


def show(widget: Any, shown: bool) -> None:
    """Show or hide a widget without taking it out of its place."""
    wanted = None if shown else "none"
    if widget.layout.display != wanted:
        widget.layout.display = wanted


def close_all(widget: Any) -> None:
    """Close a widget and what is in it, their layouts and styles included: each is an object in the browser, too."""
    for child in getattr(widget, "children", ()):
        close_all(child)
    for part in (getattr(widget, "layout", None), getattr(widget, "style", None)):
        if part is not None:
            part.close()
    widget.close()
