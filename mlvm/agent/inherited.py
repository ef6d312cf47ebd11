"""Kernels that a fork of a machine brought along: each with its variables, and nobody who may speak to it.

The next kernel that somebody starts in the fork is one of these, until there are none left: the one that was started
for the same notebook; else the one that was used last. Whoever wants another says which (`claim`: its id in the machine
before, or the beginning of it, or its notebook's name), and whoever wants none of them says `new`.
"""

from __future__ import annotations

import threading
import time

TYPE_CHECKING = False  # see `wire`
if TYPE_CHECKING:
    from .kernel import Kernel
    from .wire import Message

NEW = "new"
#: What a notebook server tells a kernel about itself.
NOTEBOOK = "JPY_SESSION_NAME"


class Waiting:
    """A kernel that waits; `active` is when a client last asked it for anything; `released` when it has said so."""

    def __init__(
        self,
        kernel_id: str,
        kernel: Kernel,
        *,
        notebook: str = "",
        active: float = 0.0,
        released: bool = False,
    ) -> None:
        self.kernel_id = kernel_id
        self.kernel = kernel
        self.notebook = notebook
        self.active = active
        self.released = released


class Inherited:
    """The kernels that wait."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self._guard = threading.Lock()

    def release(self, kernels: dict[str, Kernel], seconds: float) -> None:
        """Have kernels, and those that wait already, renew themselves and let nobody in any more.

        One that is busy with something that is no Python does so when it comes back to that, and waits nevertheless.
        """
        deadline = time.monotonic() + seconds
        with self._guard:
            waiting = [*self._waiting, *(Waiting(kernel_id, kernel) for kernel_id, kernel in kernels.items())]
            for one in waiting:
                one.kernel.forget_keys()
                one.kernel.tell({"release": True})
                one.released = False
            self._waiting = [_heard(one, deadline - time.monotonic()) for one in waiting]

    def listing(self) -> list[Message]:
        """Return what can be told of those that wait, the one used last first."""
        with self._guard:
            waiting = self._in_order()
        return [
            {"kernel_id": one.kernel_id, "notebook": one.notebook, "active": one.active} for one in waiting
        ]

    def take(self, wanted: str, notebook: str) -> Waiting | None:
        """Return the kernel that a start claims, which then waits no more; None where there is none to claim.

        Raises LookupError when one is wanted that does not wait.
        """
        with self._guard:
            waiting = self._in_order()
            if wanted == NEW or not (waiting or wanted):
                return None
            if wanted:
                found = [one for one in waiting if one.kernel_id.startswith(wanted) or one.notebook == wanted]
            else:
                found = [one for one in waiting if notebook and one.notebook == notebook] or waiting
            if not found:
                there = ", ".join(one.notebook or one.kernel_id[:12] for one in waiting) or "none"
                raise LookupError(f"no kernel `{wanted}` waits here (waiting: {there})")
            self._waiting.remove(found[0])
            return found[0]

    def put_back(self, one: Waiting) -> None:
        """Let a kernel wait again that could not be claimed."""
        with self._guard:
            self._waiting.append(one)

    def _in_order(self) -> list[Waiting]:
        living = [one for one in self._waiting if not one.kernel.ended.is_set()]
        self._waiting = [one if one.released else _heard(one, 0) for one in living]
        return sorted(self._waiting, key=lambda one: -one.active)


def _heard(one: Waiting, seconds: float) -> Waiting:
    """Return a kernel that waits with what it says of itself, if it does so in time."""
    told = one.kernel.answer(max(0.0, seconds)).get("released")
    if not told:
        return one
    return Waiting(one.kernel_id, one.kernel, notebook=told["notebook"], active=told["active"], released=True)
