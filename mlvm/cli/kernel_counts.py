"""How many kernels live in each machine, for a picture that is drawn again and again.

Only guests know, and one that is busy answers late. So each is asked on the side, one question at a time, and a picture
shows what was answered last.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from mlvm.errors import MachineError
from mlvm.kernel import registry
from mlvm.machine.overview import ASKED, Seen
from mlvm.machine.provider import State

#: Seconds that a look waits for answers: a guest that has nothing to do takes a hundredth of them.
PATIENCE = 0.5
NOTHING = "-"


class KernelCounts:
    """Asks guests for their kernels."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(ASKED, thread_name_prefix="mlvm-kernels")
        self._asked: dict[str, Future[str]] = {}
        self._told: dict[str, str] = {}

    def look(self, seen: Iterable[Seen]) -> None:
        """Ask guests that have answered their last question; take in what is answered soon."""
        running = {one.name: one for one in seen if one.condition.state is State.RUNNING}
        self._told = {name: said for name, said in self._told.items() if name in running}
        for name, one in running.items():
            if name not in self._asked:
                self._asked[name] = self._pool.submit(counted, one)
        wait(self._asked.values(), timeout=PATIENCE)
        for name in [name for name, asked in self._asked.items() if asked.done()]:
            said = self._asked.pop(name).result()
            if name in running:
                self._told[name] = said

    def of(self, name: str) -> str:
        """Return what is known of a machine's kernels, in words."""
        return self._told.get(name, NOTHING)


def counted(seen: Seen) -> str:
    """Return in words how many kernels live in a machine, and how many of them are busy."""
    if seen.record is None or seen.provider is None:
        return NOTHING
    try:
        kernels = registry.in_machine(seen.record, seen.provider.guest(seen.record))
    except MachineError:
        return NOTHING
    living = [kernel for kernel in kernels if kernel.code is None]
    busy = sum(kernel.busy for kernel in living)
    return (f"{len(living)}, {busy} busy" if busy else str(len(living))) if living else NOTHING
