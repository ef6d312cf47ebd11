"""The panel's widgets: a heading, a card a machine, and a row to bring up another box."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ipywidgets import HTML, Button, Dropdown, HBox, Layout, VBox

from mlvm.notebook import panel_html
from mlvm.notebook.actions import bring_up
from mlvm.notebook.card import Card, button, close_all, show, work
from mlvm.notebook.watcher import View, Watcher
from mlvm.project import shipped_boxes

#: What a job is called that makes a machine which has no card yet; no machine can have this name.
NEW = ""


class Face:
    """Draws views; `touched` is called whenever somebody presses a button, `closed` for the one that closes."""

    def __init__(self, watcher: Watcher, *, touched: Callable[[], None], closed: Callable[[], None]) -> None:
        self._watcher = watcher
        self._touched = touched
        self._guard = threading.Lock()
        self._cards: dict[str, Card] = {}
        self._closed = False
        self.heading = HTML(layout=Layout(flex="1 1 auto"))
        self.resume = button("Go on", lambda _: touched(), icon="refresh", tip="it has stopped following")
        self.shut = button("", lambda _: closed(), icon="times", tip="close this panel", look="mlvm-bare")
        self.warnings = HTML()
        self.cards = VBox([])
        self.boxes = Dropdown(options=shipped_boxes(), layout=Layout(width="180px"))
        self.up = button("Up", self._bring_up, icon="play", tip="bring up this box's machine")
        self.making = HTML()
        self.dismiss = button("Dismiss", lambda _: watcher.dismiss(NEW))
        another = HBox([HTML('<span class="mlvm-dim">another box:&nbsp;</span>'), self.boxes, self.up])
        another.layout.align_items = "center"
        head = HBox(
            [self.heading, self.resume, self.shut], layout=Layout(align_items="center", margin="0 0 4px")
        )
        style = HTML(panel_html.STYLE, layout=Layout(display="none"))
        self.box = VBox(
            [style, head, self.warnings, self.cards, self.making, self.dismiss, another],
            layout=Layout(overflow="hidden"),
        )
        self.box.add_class("mlvm-panel")

    def draw(self, view: View, *, live: bool) -> None:
        """Show what was seen."""
        with self._guard:
            if self._closed:
                return
            self.heading.value = panel_html.heading(view)
            show(self.resume, not live)
            self.warnings.value = panel_html.warnings(view.checks)
            names = [one.name for one in view.seen]
            gone = [self._cards.pop(name) for name in set(self._cards) - set(names)]
            for one in view.seen:
                card = self._cards.get(one.name)
                if card is None:
                    card = self._cards[one.name] = Card(one.name, self._watcher, touched=self._touched)
                card.draw(one, view)
            boxes = tuple(self._cards[name].box for name in names)
            if self.cards.children != boxes:
                self.cards.children = boxes
            for card in gone:
                card.close()
            job = view.jobs.get(NEW)
            self.making.value = work(job)
            show(self.dismiss, job is not None and job.error is not None)
            self.up.disabled = job is not None and not job.over

    def close(self) -> None:
        """Take everything out of the browser."""
        with self._guard:
            self._closed = True
            close_all(self.box)

    def _bring_up(self, _: Button) -> None:
        self._touched()
        target, home = self.boxes.value, self._watcher.home
        self.up.disabled = True
        self._watcher.begin(NEW, f"up {target}", lambda observer: bring_up(target, home, observer))
