"""The kernels that a notebook has in machines: one a machine, for as long as the notebook's own kernel lives.

In an ipykernel they share the thread that publishes (`relay`), and the notebook can be attached to one. In any other
shell, as in a terminal, they share a thread of their own, and cells are sent one by one.
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

from mlvm.errors import KernelError
from mlvm.notebook import cells
from mlvm.notebook.attach import Attachment, Place, place_of
from mlvm.notebook.guest_kernel import GuestKernel
from mlvm.notebook.link import Heard, Link, Request
from mlvm.notebook.relay import Relay


class Kernels:
    """The kernels of one shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._kernels: dict[str, GuestKernel] = {}
        self._relay: Relay | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._attachment: Attachment | None = None

    @property
    def can_attach(self) -> bool:
        """Tell whether the shell belongs to a kernel whose cells can be diverted."""
        return hasattr(getattr(self._shell, "kernel", None), "iopub_thread")

    @property
    def attached_to(self) -> str | None:
        """The machine that cells run in; None when they run on the host."""
        return self._attachment.guest.machine if self._attachment else None

    def require_can_attach(self) -> None:
        """Raise KernelError where cells cannot be diverted."""
        if not self.can_attach:
            raise KernelError(
                "only cells of a notebook can be attached to a machine",
                hint="here, send single cells: %%mlvm NAME",
            )

    def require_own_cell(self, code: str) -> None:
        """Raise KernelError when a line that moves the cells that follow stands among code: that would not move."""
        if place_of(code) is Place.BOTH:
            raise KernelError(
                "this cell goes on with code, which would run on the host",
                hint="give the `%mlvm` line a cell of its own; code in the cells below runs in the machine",
            )

    def living(self, name: str) -> GuestKernel | None:
        """Return the kernel in machine `name`, if there is one; what has died is put away."""
        kernel = self._kernels.get(name)
        if kernel is not None and not kernel.alive():
            # Cells that are meant for it go on being refused: nobody has said that they may run here.
            self._put_away(self._kernels.pop(name))
            kernel = None
        return kernel

    def start(self, name: str, project: Path, *, adopt: str = "") -> GuestKernel:
        """Start a kernel in machine `name`; if cells were meant for one there, they are meant for this one now.

        With `adopt` the kernel of that id, which lives there without a client, is gone on with.
        """
        if self.can_attach:
            relay = self._relay = self._relay or Relay(self._shell.kernel)
            kernel = GuestKernel(project, name, loop=relay.loop, front=relay.front, adopt=adopt)
            relay.open(kernel.link)
            if self._attachment is not None and self._attachment.guest.machine == name:
                self._attachment.turn_to(kernel)
        else:
            kernel = GuestKernel(project, name, loop=self._own_loop(), front=_nobody)
        self._kernels[name] = kernel
        return kernel

    def run(self, kernel: GuestKernel, code: str) -> cells.Result | None:
        """Run a cell in a guest, from a magic."""
        parent = self._shell.kernel.get_parent("shell") if self.can_attach else None
        return cells.run(kernel, code, self._shell, parent=parent)

    def attach(self, kernel: GuestKernel, *, marks: bool) -> None:
        """Let the cells that follow run in a guest."""
        self.require_can_attach()
        assert self._relay is not None, "made when the kernel was started"
        self.detach()
        self._attachment = Attachment(self._relay, kernel, marks=marks)

    def detach(self) -> str | None:
        """Let the cells that follow run on the host; return the machine they ran in."""
        attachment, self._attachment = self._attachment, None
        if attachment is None:
            return None
        attachment.end()
        return attachment.guest.machine

    def end(self, name: str) -> None:
        """End the kernel in machine `name`, if there is one; cells that ran in it run on the host again."""
        if self.attached_to == name:
            self.detach()
        if kernel := self._kernels.pop(name, None):
            self._put_away(kernel)

    def close(self) -> None:
        """End every kernel; the machines stay."""
        for name in list(self._kernels):
            self.end(name)
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None

    def discard(self) -> None:
        """Kill every kernel while the interpreter exits."""
        while self._kernels:
            self._kernels.popitem()[1].discard()

    def word_for(self, name: str) -> str:
        """Say how this notebook stands to machine `name`: nothing, `yes` for a kernel, `attached`."""
        return "attached" if self.attached_to == name else "yes" if name in self._kernels else ""

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="mlvm-kernels", daemon=True)
            self._thread.start()
        return self._loop

    def _put_away(self, kernel: GuestKernel) -> None:
        if self._relay is not None:
            self._relay.close(kernel.link)
        kernel.close()


def _nobody(_link: Link, _heard: Heard, _request: Request | None) -> None:
    """Where there is no frontend, nobody hears what no cell waits for."""
