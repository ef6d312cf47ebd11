"""`%mlvm` alone, or `mlvm.panel()`: all machines in a cell, live, with buttons.

A panel is a picture: it asks the notebook's one `Watcher` and has nothing of its own to remember, so any number of
panels agree. It stops when it is closed, when its cell is run again, and by itself when nobody has touched it for
`IDLE` seconds: no notebook tells its kernel that a page was shut. Where there are no widgets (a console, nbconvert,
GitHub) the same is shown once, as text and as HTML.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from mlvm.notebook import panel_html
from mlvm.notebook.watcher import View, Watcher, watcher_of
from mlvm.paths import Home

#: Seconds without a click after which a panel stops looking.
IDLE = 1800.0
WIDGET = "application/vnd.jupyter.widget-view+json"

#: The panel that each cell shows, by the cell's id.
_panels: dict[str, Panel] = {}


def panel(*, idle: float = IDLE) -> Panel:
    """Return a panel of all machines."""
    return Panel(watcher_of(Home.find()), idle=idle)


class Panel:
    """A panel; a display of it makes its widgets, `close` ends them."""

    def __init__(self, watcher: Watcher, *, idle: float = IDLE) -> None:
        self._watcher = watcher
        self._idle = idle
        self._face: Any = None
        self._guard = threading.RLock()
        self._touched = 0.0
        self._live = False

    def __repr__(self) -> str:
        return panel_html.text(self._moment())

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        """Return all three pictures; the widgets only where there is a kernel that can talk to them."""
        view = self._moment()
        bundle: dict[str, object] = {"text/plain": panel_html.text(view), "text/html": panel_html.page(view)}
        if (cell := _cell()) is not None:
            before = _panels.pop(cell, None)
            if before is not None and before is not self:
                before.close()
            if cell:
                _panels[cell] = self
            bundle |= self._widget()
        return bundle

    @property
    def live(self) -> bool:
        """Whether it follows what happens."""
        return self._live

    def close(self) -> None:
        """Take the panel away and stop looking for it; may be called twice."""
        with self._guard:
            face, self._face = self._face, None
        self._stop()
        for cell in [cell for cell, shown in _panels.items() if shown is self]:
            del _panels[cell]
        if face is not None:
            face.close()

    def touch(self) -> None:
        """Go on looking: somebody is there."""
        with self._guard:
            self._touched = time.monotonic()
            begin, self._live = not self._live, True
        if begin:
            self._watcher.listen(self._draw)

    def _widget(self) -> dict[str, object]:
        from mlvm.notebook.face import Face  # noqa: PLC0415  (a console needs no widgets)

        with self._guard:
            if self._face is None:
                self._face = Face(self._watcher, touched=self.touch, closed=self.close)
                self._face.draw(self._watcher.view(), live=True)
            shown: dict[str, object] = self._face.box._repr_mimebundle_()
        self.touch()
        return {WIDGET: shown[WIDGET]}

    def _draw(self) -> None:
        with self._guard:
            face = self._face
            idle = time.monotonic() - self._touched > self._idle
        if idle:
            self._stop()
        if face is not None:
            face.draw(self._watcher.view(), live=not idle)

    def _stop(self) -> None:
        with self._guard:
            was, self._live = self._live, False
        if was:
            self._watcher.forget(self._draw)

    def _moment(self) -> View:
        """Return what is seen now, looking unless somebody else has just looked."""
        if not self._live:
            self._watcher.look()
        return self._watcher.view()


def _cell() -> str | None:
    """Return the id of the cell that runs, "" where the frontend tells none, None where there is no kernel."""
    from IPython.core.getipython import get_ipython  # noqa: PLC0415

    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return None
    parent = kernel.get_parent("shell") or {}
    return str(parent.get("metadata", {}).get("cellId", ""))
