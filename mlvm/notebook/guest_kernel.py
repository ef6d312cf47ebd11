"""A kernel in a machine, started by a notebook's own process (or gone on with), and ended with it.

Jupyter's manager starts and ends it through our provisioner; a `Link` talks to it. Whether it lives is asked of the
guest, and only while somebody waits: a watcher looks, and tells all who wait when there is nothing to wait for.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.manager import KernelManager

from mlvm.errors import KernelError, MlvmError, Outcome
from mlvm.kernel import kernelspec
from mlvm.kernel.provisioner import MlvmProvisioner
from mlvm.kernel.registry import Kept
from mlvm.notebook.link import QUEUE, Heard, Link, Request

#: Seconds a kernel may take from its heartbeat to its first answer.
READY_DEADLINE = 120.0
#: Seconds between two looks whether the kernel still lives.
LOOK_EVERY = 1.0
#: Sets the number of the next cell, whatever the user's own names are.
SET_COUNT = "(lambda s: setattr(s, 'execution_count', max(s.execution_count, {})))(__import__('IPython').get_ipython())"
#: The number of the next cell, of a kernel that has run some before.
COUNT = "__import__('IPython').get_ipython().execution_count"


class GuestKernel:
    """A kernel in machine `machine`, started now and kept until `close`; with `adopt`, the living one of that id.

    A kernel that was started for this very notebook, and lives without a client, is gone on with unasked. `front` is
    told of outputs in the thread of `loop`.
    """

    def __init__(
        self,
        project: Path,
        machine: str,
        *,
        loop: asyncio.AbstractEventLoop,
        front: Callable[[Link, Heard, Request | None], None],
        adopt: str = "",
    ) -> None:
        self.machine = machine
        #: The number of the kernel's next cell.
        self.count = 1
        self._closed = threading.Event()
        self._link: Link | None = None
        self._context = zmq.Context()
        self._context.setsockopt(zmq.RCVHWM, QUEUE)
        self._context.setsockopt(zmq.SNDHWM, QUEUE)
        self._manager = KernelManager(
            context=self._context,
            kernel_name=f"mlvm-{machine}",
            kernel_spec_manager=kernelspec.SingleSpec(
                kernelspec.document(machine, project, machine, adopt=adopt)
            ),
        )
        try:
            self._manager.start_kernel()
            self._link = Link(self._manager, loop, front)
            # One that was there before may be in the middle of a cell, which the shell channel waits for.
            channel = "control" if self.adopted else "shell"
            self._link.wait_until_ready(READY_DEADLINE, self._require_alive, channel=channel)
        except KernelError as error:
            self.close()
            # What the provisioner made one text of, for Jupyter, had its parts.
            raise error.__cause__ if isinstance(error.__cause__, MlvmError) else error from None
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._watch, name="mlvm-watch", daemon=True).start()

    @property
    def link(self) -> Link:
        """The line to it. Raises KernelError when it has been closed."""
        if self._link is None:
            raise KernelError(f"the kernel in machine `{self.machine}` has been ended")
        return self._link

    def alive(self) -> bool:
        """Tell whether the kernel still runs."""
        return self._link is not None and self._link.lost is None and self._runs()

    @property
    def adopted(self) -> bool:
        """Tell whether the kernel was there before."""
        return isinstance(self._manager.provisioner, MlvmProvisioner) and self._manager.provisioner.adopted

    def take_missed(self) -> Kept | None:
        """Return what an adopted kernel said while nobody listened; None when it is busy, and the next cell shows it.

        Its cells go on being counted where they were.
        """
        provisioner = self._manager.provisioner
        assert isinstance(provisioner, MlvmProvisioner)
        missed = provisioner.take_missed()
        if missed is not None:
            told: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
            content = {"code": "", "silent": True, "user_expressions": {"count": COUNT}}
            self.link.ask("execute_request", content, tell=lambda what, value: told.put((what, value)))
            while (news := told.get())[0] not in {"done", "lost"}:
                pass
            if news[0] == "lost":
                raise news[1]
            with suppress(KeyError, ValueError):
                self.count = int(news[1]["user_expressions"]["count"]["data"]["text/plain"])
        return missed

    def outcome(self, request: Request) -> Outcome:
        """Tell what is known of a request to a kernel that died. The guest is asked, if it is still there.

        Only of cells does it know whether they had begun.
        """
        if not request.sent:
            return Outcome.NEVER_RAN
        provisioner = self._manager.provisioner
        if request.begun or request.kind != "execute_request" or not isinstance(provisioner, MlvmProvisioner):
            return Outcome.UNKNOWN
        return provisioner.obituary(request.msg_id)[1]

    def set_count(self, count: int) -> None:
        """Let the next cell have number `count`, so that numbers go on when cells have run elsewhere.

        Never backwards: a history has each number once.
        """
        if count > self.count:
            self.count = count
            self.link.ask("execute_request", {"code": SET_COUNT.format(count), "silent": True})

    def close(self) -> None:
        """End the kernel; the machine stays. May be called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=not self._runs())
        self._context.destroy(linger=0)

    def discard(self) -> None:
        """Kill the kernel while the interpreter exits, when nothing asynchronous works any more."""
        self._closed.set()
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if isinstance(self._manager.provisioner, MlvmProvisioner):
            self._manager.provisioner.discard()
        self._manager.cleanup_connection_file()
        self._context.destroy(linger=0)

    def _runs(self) -> bool:
        provisioner = self._manager.provisioner
        return isinstance(provisioner, MlvmProvisioner) and provisioner.runs()

    def _require_alive(self) -> None:
        if not self._runs():
            raise self._death()

    def _death(self) -> KernelError:
        """Say that the kernel has died, and why."""
        provisioner = self._manager.provisioner
        reason = provisioner.reason if isinstance(provisioner, MlvmProvisioner) else ""
        return KernelError(
            f"the kernel in machine `{self.machine}` died",
            details=reason,
            hint="run the cell again: a new kernel is started for it",
        )

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_EVERY):
            link = self._link
            if link is None or link.lost is not None:
                return
            if link.waiting and not self._runs():
                link.lose(self._death())
                return
