"""Outputs and widgets of guests at home in a notebook: passed on as they are, both ways.

Works in an ipykernel, on what every release of it has: the thread that publishes (`iopub_thread`), which owns the
sockets to guests too, so that an output goes from socket to socket in one thread; and the table of handlers, in which
comms of a guest get one that sends them there. What the guest says carries the frontend's own message ids: to a
frontend all of it is the answer to what it asked.

A comm of a guest stands in the local kernel's table too, so that whoever asks for comms is told of all. Subshells, on
which frontends move sliders while a cell runs, have a counterpart in the guest each.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mlvm.notebook import waiting
from mlvm.notebook.link import COMMS, DELIMITER, Heard, Link, Request
from mlvm.notebook.shortcut import Shortcut

Message = dict[str, Any]
Handler = Callable[[Any, Any, Message], Any]

#: How a frontend asks for the state of all widgets at once.
WIDGET_CONTROL = "jupyter.widget.control"
WIDGETS = "jupyter.widget"


@dataclass(frozen=True, slots=True, eq=False)
class GuestComm:
    """A comm whose other end is a guest, in the local kernel's table of comms."""

    comm_id: str
    target_name: str
    link: Link
    #: Whether the guest has opened it. What a frontend opens must be known before messages may overtake.
    theirs: bool = False


class Relay:
    """What a local ipykernel `kernel` passes on between its frontends and guests, until `close`."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        #: Where cells run now, and what frontends open; None is the host.
        self.attached: Link | None = None
        #: Threads that wait for a cell in a guest. Messages that overtake it have no busy and idle but the guest's.
        self.running: set[threading.Thread] = set()
        self._subshells: dict[tuple[Link, str], str] = {}
        self._links: list[Link] = []
        self._shell_handlers: dict[str, Handler] = {}
        self._control_handlers: dict[str, Handler] = {}
        self._shortcut = Shortcut(kernel, self._route)

    @property
    def loop(self) -> Any:
        """The loop that the sockets of guests belong to: the one that publishes."""
        return self.kernel.iopub_thread.io_loop.asyncio_loop

    def open(self, link: Link) -> None:
        """Pass comms on to a guest, too."""
        if not self._links:
            self._divert()
        self._links.append(link)
        for local in self._local_subshells():
            self._pair(link, local)

    def close(self, link: Link) -> None:
        """Forget a guest; with the last one everything is as it was. May be called twice."""
        if link not in self._links:
            return
        self._links.remove(link)
        if self.attached is link:
            self.attached = None
        comms = self.kernel.comm_manager.comms
        for comm in [one for one in comms.values() if isinstance(one, GuestComm) and one.link is link]:
            comms.pop(comm.comm_id, None)
        self._subshells = {key: value for key, value in self._subshells.items() if key[0] is not link}
        if not self._links:
            self.kernel.shell_handlers.update(self._shell_handlers)
            self.kernel.control_handlers.update(self._control_handlers)
            self._shortcut.close()

    def front(self, link: Link, heard: Heard, _request: Request | None) -> None:
        """Pass an output on to the frontends; runs in the thread that publishes."""
        if heard.kind in COMMS and not self._admit(link, heard):
            return
        publisher = self.kernel.iopub_thread.socket
        if publisher is None:
            return
        frames = [*heard.frames[: heard.at], DELIMITER, *heard.said_by(self.kernel.session)]
        publisher.send_multipart(frames, copy=False)

    def guest_header(self, link: Link, header: Message) -> Message:
        """Return a frontend's header as the guest shall see it: with a subshell of its own."""
        local = header.get("subshell_id")
        passed = {name: value for name, value in header.items() if name != "subshell_id"}
        if local is not None and (theirs := self._subshells.get((link, local))):
            passed["subshell_id"] = theirs
        return passed

    def _admit(self, link: Link, heard: Heard) -> bool:
        """Keep the table of comms; return whether the message is of a comm the guest may speak for."""
        content = heard.content()
        comms = self.kernel.comm_manager.comms
        comm_id = str(content["comm_id"])
        known = comms.get(comm_id)
        if heard.kind == "comm_open" and known is None:
            comms[comm_id] = GuestComm(comm_id, str(content.get("target_name", "")), link, theirs=True)
            return True
        if not isinstance(known, GuestComm) or known.link is not link:
            return False
        if heard.kind == "comm_close":
            comms.pop(comm_id, None)
        return True

    def _divert(self) -> None:
        shell, control = self.kernel.shell_handlers, self.kernel.control_handlers
        self._shell_handlers = {kind: shell[kind] for kind in sorted(COMMS)}
        shell.update({kind: self._comm_handler(kind) for kind in sorted(COMMS)})
        paired = {
            "create_subshell_request": self._create_subshell,
            "delete_subshell_request": self._delete_subshell,
        }
        self._control_handlers = {kind: control[kind] for kind in paired if kind in control}
        control.update({kind: paired[kind] for kind in self._control_handlers})
        self._shortcut.open()

    def _route(self, comm_id: str, header: Message) -> tuple[Link, Message] | None:
        """Say for the shortcut where a comm's message goes, and with which header."""
        comm = self.kernel.comm_manager.comms.get(comm_id)
        if not isinstance(comm, GuestComm) or not comm.theirs or comm.link.lost is not None:
            return None
        return comm.link, self.guest_header(comm.link, header)

    def _comm_handler(self, kind: str) -> Handler:
        local = self._shell_handlers[kind]

        def handle(stream: Any, ident: Any, message: Message) -> Any:
            content = message["content"]
            if kind == "comm_open" and content.get("target_name") == WIDGET_CONTROL and self._divided():
                return self._refuse(content["comm_id"])
            link = self._owner(kind, content)
            return local(stream, ident, message) if link is None else self._to_guest(link, kind, message)

        return handle

    def _owner(self, kind: str, content: Message) -> Link | None:
        """Return the guest that a comm message is for; None is the host."""
        manager = self.kernel.comm_manager
        comm_id = content.get("comm_id")
        comm = manager.comms.get(comm_id)
        if isinstance(comm, GuestComm):
            if kind == "comm_close":
                manager.comms.pop(comm_id, None)
            return comm.link
        if comm is not None or kind != "comm_open":
            return None
        target = str(content.get("target_name", ""))
        link = self._opened_in(target)
        if link is not None:
            manager.comms[comm_id] = GuestComm(str(comm_id), target, link)
        return link

    def _opened_in(self, target: str) -> Link | None:
        """Return the guest in which a frontend's new comm is opened."""
        if target == WIDGET_CONTROL:
            return next(iter(self._with_widgets()), self.attached)
        if target in self.kernel.comm_manager.targets and not target.startswith(WIDGETS):
            return None
        return self.attached

    def _with_widgets(self) -> list[Link]:
        """Return the guests that have widgets."""
        comms = list(self.kernel.comm_manager.comms.values())
        theirs = [one for one in comms if isinstance(one, GuestComm) and one.target_name.startswith(WIDGETS)]
        return [link for link in self._links if any(one.link is link for one in theirs)]

    def _divided(self) -> bool:
        """Tell whether widgets live on more than one side."""
        widgets = sys.modules.get("ipywidgets.widgets.widget")
        local = bool(getattr(widgets, "_instances", None))
        return len(self._with_widgets()) + local > 1

    def _refuse(self, comm_id: str) -> None:
        """Close what a frontend opened to ask for all widgets at once: then it asks each of the comms it is told of."""
        self.kernel.send_response(self.kernel.iopub_socket, "comm_close", {"comm_id": comm_id, "data": {}})

    def _to_guest(self, link: Link, kind: str, message: Message) -> Awaitable[object]:
        """Send a comm message on; over when the guest is idle again.

        A frontend takes the local idle for the end of what the message does, and then listens no more for outputs.
        """
        # A cell that is being waited for has the interrupts already.
        overtaking = threading.current_thread() in self.running
        return waiting.ask(
            link,
            kind,
            message["content"],
            header=self.guest_header(link, message["header"]),
            metadata=message.get("metadata"),
            buffers=message.get("buffers") or (),
            awaits=("idle",),
            with_status=overtaking,
            interruptible=not overtaking,
        )

    def _local_subshells(self) -> list[str]:
        channel = getattr(self.kernel, "shell_channel_thread", None)
        return list(channel.manager.list_subshell()) if channel else []

    def _pair(self, link: Link, local: str) -> None:
        """Give a local subshell its counterpart in a guest; until that is there its messages go to the main shell."""

        def tell(kind: str, what: Any) -> None:
            if kind == "done" and what.get("subshell_id"):
                self._subshells[link, local] = what["subshell_id"]

        link.ask("create_subshell_request", {}, tell=tell, channel="control")

    async def _create_subshell(self, stream: Any, ident: Any, message: Message) -> None:
        before = set(self._local_subshells())
        await self._control_handlers["create_subshell_request"](stream, ident, message)
        for local in set(self._local_subshells()) - before:
            for link in self._links:
                self._pair(link, local)

    async def _delete_subshell(self, stream: Any, ident: Any, message: Message) -> None:
        local = message["content"].get("subshell_id")
        for link in self._links:
            if theirs := self._subshells.pop((link, local), None):
                link.ask("delete_subshell_request", {"subshell_id": theirs}, channel="control")
        await self._control_handlers["delete_subshell_request"](stream, ident, message)
