"""Who looks at the machines for all panels of a notebook, and what is being done to them.

One look serves every panel, so they cannot disagree. The looking thread begins with the first panel and ends with the
last. Work on a machine is a `Job` in a thread of its own: one a machine, whichever panel it was asked for in, so that
no button can be pressed twice.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from mlvm.errors import MlvmError
from mlvm.events import Observer
from mlvm.image.store import Store
from mlvm.machine.check import Check, Grade
from mlvm.machine.doctor import examine
from mlvm.machine.overview import PERIOD, History, Seen, look
from mlvm.notebook.display import CellProgress
from mlvm.paths import Home

log = logging.getLogger(__name__)

Listener = Callable[[], None]


@dataclass(kw_only=True, slots=True, eq=False)
class Job:
    """Something that is done to a machine; it has failed when there is an `error`."""

    machine: str
    verb: str
    progress: CellProgress
    over: bool = False
    error: MlvmError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What there is to be seen, all at once."""

    seen: tuple[Seen, ...] = ()
    jobs: dict[str, Job] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    looked: bool = False


class Watcher:
    """Looks while anybody listens; listeners are called from its thread after every look."""

    def __init__(self, home: Home, *, period: float = PERIOD) -> None:
        self.home = home
        self.history = History()
        self._period = period
        self._guard = threading.Lock()
        self._listeners: list[Listener] = []
        self._jobs: dict[str, Job] = {}
        self._seen: tuple[Seen, ...] = ()
        self._checks: tuple[Check, ...] | None = None
        self._looked = False
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self._hurry = threading.Event()

    def view(self) -> View:
        """Return what was seen last."""
        with self._guard:
            return View(
                seen=self._seen, jobs=dict(self._jobs), checks=self._checks or (), looked=self._looked
            )

    def listen(self, listener: Listener) -> None:
        """Call `listener` after every look from now on."""
        with self._guard:
            self._listeners.append(listener)
            if self._thread is None:
                self._over = threading.Event()
                self._thread = threading.Thread(
                    target=self._watch, args=(self._over,), name="mlvm-watch", daemon=True
                )
                self._thread.start()
        self._hurry.set()

    def forget(self, listener: Listener) -> None:
        """Call `listener` no more; without any, the thread ends as soon as it has looked."""
        with self._guard:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if self._listeners or self._thread is None:
                return
            self._thread = None
            self._over.set()
        self._hurry.set()

    def look(self) -> None:
        """Look now, in this thread, without asking guests: for a picture of one moment."""
        seen = tuple(look(self.home, ask=False))
        with self._guard:
            self._seen, self._looked = seen, True

    def begin(self, machine: str, verb: str, work: Callable[[Observer], object]) -> bool:
        """Do `work` on a machine in a thread; False, and nothing done, while something else is done to it."""
        with self._guard:
            before = self._jobs.get(machine)
            if before is not None and not before.over:
                return False
            job = Job(
                machine=machine, verb=verb, progress=CellProgress(f"{verb} {machine}".strip(), live=False)
            )
            self._jobs[machine] = job
        threading.Thread(target=self._work, args=(job, work), name=f"mlvm-{verb}", daemon=True).start()
        self._tell()
        return True

    def dismiss(self, machine: str) -> None:
        """Forget what went wrong."""
        with self._guard:
            if (job := self._jobs.get(machine)) is not None and job.over:
                del self._jobs[machine]
        self._tell()

    def _work(self, job: Job, work: Callable[[Observer], object]) -> None:
        try:
            work(job.progress)
        except MlvmError as error:
            job.error = error
        except Exception as error:
            log.exception("%s %s", job.verb, job.machine)
            job.error = MlvmError(f"{job.verb} failed: {type(error).__name__}: {error}")
        with self._guard:
            job.over = True
            if job.error is None:
                del self._jobs[job.machine]
        self._hurry.set()
        self._tell()

    def _watch(self, over: threading.Event) -> None:
        while not over.is_set():
            self._hurry.clear()
            with self._guard:
                busy = {name for name, job in self._jobs.items() if not job.over}
            seen = tuple(look(self.home, busy=busy))
            with self._guard:
                self._seen, self._looked = seen, True
                self.history.add(seen)
            self._tell()
            if self._checks is None:
                checks = examine(self.home, vmlinuz=Store(self.home).guest_kernel())
                self._checks = tuple(check for check in checks if check.grade is not Grade.OK)
                self._tell()
            if not over.is_set():
                self._hurry.wait(self._period)

    def _tell(self) -> None:
        with self._guard:
            listeners = list(self._listeners)
        for listener in listeners:
            try:
                listener()
            except Exception:
                log.exception("a panel could not be drawn")


_watchers: dict[Home, Watcher] = {}


def watcher_of(home: Home) -> Watcher:
    """Return the one watcher of this process for a home."""
    return _watchers.setdefault(home, Watcher(home))
