"""Attached: every cell of the notebook runs in a machine, until it is told otherwise.

The kernel's handler of cells is replaced in its table of handlers, and what answers questions about code
(`do_complete` ...) on the kernel object; taken back, nothing is left. The local kernel still does what surrounds a
cell: its number, its input, busy and idle, what happens to the cells behind one that failed. The guest does the rest.

One rule stands above all: a cell that is meant for the machine never runs on the host by itself. So when the kernel in
the machine is gone, cells fail, with the reason, until a person attaches again or detaches.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from html import escape
from typing import Any

from mlvm.errors import KernelError, MlvmError
from mlvm.notebook import waiting
from mlvm.notebook.cells import died
from mlvm.notebook.display import render
from mlvm.notebook.guest_kernel import GuestKernel
from mlvm.notebook.link import DELIMITER, Heard
from mlvm.notebook.relay import Relay

Message = dict[str, Any]

#: Runs a cell on the host.
LOCAL = "%%local"
#: How lines begin that are for mlvm itself.
OURS = ("%mlvm", "%load_ext mlvm", "%reload_ext mlvm")
QUESTIONS = ("complete", "inspect", "is_complete", "history")
NAMES = tuple(f"do_{question}" for question in QUESTIONS)
MARK = "margin: 0; text-align: right; font-size: 75%; opacity: .55"


class Place(StrEnum):
    """Where a cell belongs."""

    GUEST = "guest"
    HOST = "host"
    #: Lines for mlvm and code for the machine in one cell.
    BOTH = "both"


def place_of(code: str) -> Place:
    """Tell where a cell belongs while the notebook is attached."""
    lines = [line.strip() for line in code.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        return Place.GUEST
    if lines[0].startswith("%%"):
        return Place.HOST if lines[0].split()[0] in {LOCAL, "%%mlvm"} else Place.GUEST
    ours = [_is_ours(line) for line in lines]
    if all(ours):
        return Place.HOST
    return Place.BOTH if any(ours) else Place.GUEST


def without_local_mark(lines: list[str]) -> list[str]:
    """Take `%%local` off a cell; IPython's input transformer for the host."""
    first = next((i for i, line in enumerate(lines) if line.strip()), None)
    if first is None or lines[first].strip() != LOCAL:
        return lines
    return [*lines[:first], "\n", *lines[first + 1 :]]


class Attachment:
    """Diverts the cells of the ipykernel behind `relay` to `guest`, from now until `end`."""

    def __init__(self, relay: Relay, guest: GuestKernel, *, marks: bool = True) -> None:
        self._relay = relay
        self._kernel = relay.kernel
        self._marks = marks
        handlers = self._kernel.shell_handlers
        self._here: dict[str, Callable[..., Any]] = {
            "execute": handlers["execute_request"],
            **{question: getattr(self._kernel, f"do_{question}") for question in QUESTIONS},
        }
        self._hidden = {name: self._kernel.__dict__[name] for name in NAMES if name in self._kernel.__dict__}
        self.turn_to(guest)
        handlers["execute_request"] = self._execute
        # Plain attributes of the object, which hide the methods of its class.
        for question in QUESTIONS:
            setattr(self._kernel, f"do_{question}", self._asked(question))

    def turn_to(self, guest: GuestKernel) -> None:
        """Run the cells that follow in `guest`."""
        self.guest = guest
        self._relay.attached = guest.link
        # The cell that says so has its number, and releases of IPython differ on when they count on.
        behind = guest.count - (self._shell.displayhook.prompt_count + 1)
        self._shell.execution_count += max(0, behind)

    def end(self) -> None:
        """Let cells run on the host again; the guest's kernel and its widgets live on."""
        self._kernel.shell_handlers["execute_request"] = self._here["execute"]
        for name in NAMES:
            self._kernel.__dict__.pop(name, None)
        self._kernel.__dict__.update(self._hidden)
        self._relay.attached = None

    @property
    def _shell(self) -> Any:
        return self._kernel.shell

    async def _execute(self, stream: Any, ident: Any, request: Message) -> None:
        """Handle an execute_request, as the kernel's own handler does it for the host."""
        content = request["content"]
        code, silent = content["code"], content.get("silent", False)
        place = place_of(code)
        if place is Place.HOST:
            await self._execute_here(stream, ident, request)
            return
        if not silent:
            self._kernel._publish_execute_input(code, request, self._shell.execution_count)
        if place is Place.BOTH:
            error = KernelError(
                "a cell holds either `%mlvm` lines or code for the machine; this one was not run",
                hint="give the `%mlvm` lines a cell of their own",
            )
            reply = self._refuse(stream, ident, request, error)
        else:
            reply = await self._execute_there(stream, ident, request)
        if reply["status"] == "error" and content.get("stop_on_error", True) and not silent:
            self._abort_those_behind(request)

    async def _execute_there(self, stream: Any, ident: Any, request: Message) -> Message:
        """Run a cell in the guest; its reply goes to the frontend when it comes, its last outputs may come after."""
        began = time.monotonic()
        content = request["content"]
        replies: list[Message] = []

        def replied(reply: Message, heard: Heard) -> None:
            replies.append(reply)
            stream.send_multipart([*ident, DELIMITER, *heard.said_by(self._kernel.session)], copy=False)

        thread = threading.current_thread()
        try:
            guest, link = self.guest, self.guest.link
            guest.set_count(self._shell.execution_count)
            self._relay.running.add(thread)
            await waiting.ask(
                link,
                "execute_request",
                {**content, "stop_on_error": False},
                header=self._relay.guest_header(link, request["header"]),
                metadata=request.get("metadata"),
                awaits=("reply", "idle"),
                on_input=lambda question: self._ask_person(question, ident, request),
                on_reply=replied,
            )
        except waiting.LostError as lost:
            outcome = await asyncio.to_thread(self.guest.outcome, lost.request)
            error = self._lost(died(lost.error, lost.request, outcome))
            return self._refuse(stream, ident, request, error, replies)
        except waiting.GaveUpError:
            error = KernelError(
                f"the kernel in machine `{self.guest.machine}` has not stopped, and is not waited for any more",
                hint="the next cell runs when it has; `%mlvm detach` leaves it",
            )
            return self._refuse(stream, ident, request, error, replies)
        except MlvmError as error:
            return self._refuse(stream, ident, request, self._lost(error), replies)
        finally:
            self._relay.running.discard(thread)
        reply = replies[0]
        if content.get("store_history", True) and not content.get("silent"):
            self._shell.execution_count = guest.count = reply.get("execution_count", guest.count) + 1
            if self._marks:
                self._mark(self.guest.machine, time.monotonic() - began)
        return reply

    async def _execute_here(self, stream: Any, ident: Any, request: Message) -> None:
        await _awaitable(self._here["execute"](stream, ident, request))
        if self._marks and request["content"]["code"].lstrip().startswith(LOCAL):
            self._mark("the host", None)

    def _abort_those_behind(self, request: Message) -> None:
        """Do with the cells behind a failed one what the kernel does: the method has no public name."""
        abort = self._kernel._abort_queues
        if inspect.signature(abort).parameters:
            abort(request["header"].get("subshell_id"))
        else:
            abort()

    def _asked(self, question: str) -> Callable[..., Any]:
        """Return what answers a question about code as the guest does; about our own lines the host does."""
        here = self._here[question]

        async def answer(*arguments: Any, **named: Any) -> Message:
            request = self._kernel.get_parent("shell")
            if question != "history" and place_of(request["content"].get("code", "")) is not Place.GUEST:
                local: Message = await _awaitable(here(*arguments, **named))
                return local
            try:
                link = self.guest.link
                return await waiting.ask(
                    link,
                    f"{question}_request",
                    request["content"],
                    header=self._relay.guest_header(link, request["header"]),
                )
            except (waiting.LostError, waiting.GaveUpError, MlvmError) as error:
                return {
                    "status": "error",
                    "ename": type(error).__name__,
                    "evalue": str(error),
                    "traceback": [],
                }

        return answer

    async def _ask_person(self, question: Message, ident: Any, request: Message) -> str:
        """Ask the frontend that sent the cell; its answer comes on the socket that nobody else reads meanwhile."""
        kernel = self._kernel
        socket = kernel.stdin_socket
        while socket.poll(0):  # what was answered too late
            socket.recv_multipart()
        kernel.session.send(socket, "input_request", question, request, ident=ident)
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(socket.FD, news.set)
        try:
            while True:
                news.clear()
                while socket.poll(0):
                    _, frames = kernel.session.feed_identities(socket.recv_multipart())
                    answer = kernel.session.deserialize(frames)
                    if answer["msg_type"] == "input_reply":
                        return str(answer["content"]["value"])
                await news.wait()
        finally:
            loop.remove_reader(socket.FD)

    def _lost(self, error: MlvmError) -> KernelError:
        return KernelError(
            error.message,
            details=error.details,
            hint=f"%mlvm up or %mlvm attach {self.guest.machine} starts another one, %mlvm detach returns to the host",
        )

    def _refuse(
        self,
        stream: Any,
        ident: Any,
        request: Message,
        error: MlvmError,
        replies: list[Message] | None = None,
    ) -> Message:
        """Fail a cell with an error of ours; say so in the reply, too, if there has been none."""
        kernel = self._kernel
        content = {"ename": type(error).__name__, "evalue": error.message, "traceback": render(error)}
        kernel.send_response(kernel.iopub_socket, "error", content)
        reply = {"status": "error", "execution_count": self._shell.execution_count, "payload": [], **content}
        if not replies:
            metadata = kernel.finish_metadata(request, kernel.init_metadata(request), reply)
            kernel.session.send(stream, "execute_reply", reply, request, ident=ident, metadata=metadata)
        return reply

    def _mark(self, where: str, seconds: float | None) -> None:
        """Say below a cell's outputs where it ran."""
        text = "ran on the host" if seconds is None else f"ran in {where}, {seconds:.1f} s"
        self._kernel.send_response(
            self._kernel.iopub_socket,
            "display_data",
            {
                "data": {"text/plain": f"[{text}]", "text/html": f'<p style="{MARK}">{escape(text)}</p>'},
                "metadata": {"mlvm": {"machine": where} if seconds is not None else {}},
                "transient": {},
            },
        )


def _is_ours(line: str) -> bool:
    return any(line == start or line.startswith(start + " ") for start in OURS)


async def _awaitable(found: Any) -> Any:
    """Await what older releases of ipykernel return at once."""
    return await found if inspect.isawaitable(found) else found
