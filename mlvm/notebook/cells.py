"""One cell at a time in a kernel that lives in a machine, its outputs in the cell that asked.

This is the way of `%%mlvm`, from a magic that runs in a main thread and can be interrupted at any instruction. So
what comes waits in a queue: an interrupt can neither lose a message nor break a socket. In a notebook outputs go to
the frontend untouched (`relay`); where there is none, as in a terminal, they are shown here, through the shell.
"""

from __future__ import annotations

import getpass
import queue
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mlvm.errors import KernelDiedError, KernelError, MlvmError, Outcome
from mlvm.kernel.registry import Kept
from mlvm.notebook.guest_kernel import GuestKernel
from mlvm.notebook.link import COMMS, OUTPUTS, Request

Message = dict[str, Any]


class GuestCellError(Exception):
    """A cell failed in the guest: shown by the guest's own traceback, under the guest's own name for the error."""

    guest_traceback: list[str]

    def _render_traceback_(self) -> list[str]:
        return self.guest_traceback


class Result:
    """The value of a cell, as the guest formatted it. The value itself stays in the guest."""

    def __init__(self, data: Message, metadata: Message) -> None:
        self.data = data
        self.metadata = metadata

    def __repr__(self) -> str:
        return str(self.data.get("text/plain", ""))

    def _repr_mimebundle_(self, **_: object) -> tuple[Message, Message]:
        return self.data, self.metadata


class Shown:
    """What has been heard of one execution, shown through the shell as it was heard."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self.value: Result | None = None
        self.error: Message | None = None

    def hear(self, kind: str, content: Message) -> None:
        """Take in an output; comms have nobody to speak with here."""
        match kind:
            case "stream":
                stream = sys.stderr if content["name"] == "stderr" else sys.stdout
                stream.write(content["text"])
                stream.flush()
            case "display_data":
                self._show(content)
            case "update_display_data":
                self._show(content, update=True)
            case "execute_result":
                self.show_value()
                self.value = Result(content["data"], content["metadata"])
            case "clear_output":
                self.value = None
                self._shell.display_pub.clear_output(wait=content["wait"])
            case "error":
                self.error = content

    def show_value(self) -> None:
        """Show a value that is not the last thing of the cell."""
        if self.value is not None:
            self._show({"data": self.value.data, "metadata": self.value.metadata})
            self.value = None

    def page(self, reply: Message) -> None:
        """Show what the guest would open a pager for: help."""
        for payload in reply.get("payload", ()):
            if payload.get("source") == "page":
                self._show({"data": payload["data"], "metadata": {}})

    def _show(self, content: Message, *, update: bool = False) -> None:
        self._shell.display_pub.publish(
            content["data"], content["metadata"], transient=content.get("transient") or {}, update=update
        )


def run(
    kernel: GuestKernel, code: str, shell: Any, *, parent: Mapping[str, Any] | None = None
) -> Result | None:
    """Run `code` in the guest; show its outputs as they come; return its value, if it has one.

    With `parent`, the message of a frontend that is being answered, outputs belong to that and go to the frontend by
    themselves, and there is no value. Raises GuestCellError for an error in the code, KernelError when the kernel dies.
    The first interrupt goes to the guest, a second one gives up waiting: KeyboardInterrupt.
    """
    events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    link = kernel.link
    kernel.set_count(shell.displayhook.prompt_count)
    content = {
        "code": code,
        "silent": False,
        "store_history": True,
        "allow_stdin": True,
        "stop_on_error": False,
    }

    def tell(kind: str, what: Any) -> None:
        events.put((kind, what))

    if parent is None:
        request = link.ask(
            "execute_request", content, tell=tell, awaits=("reply", "idle"), catches=OUTPUTS | COMMS
        )
    else:
        content["allow_stdin"] = parent["content"].get("allow_stdin", False)
        request = link.request(
            "execute_request",
            content,
            tell=tell,
            header={name: value for name, value in parent["header"].items() if name != "subshell_id"},
            metadata=parent.get("metadata"),
            catches=frozenset({"error"}),
        )
    shown = Shown(shell)
    reply = _follow(kernel, request, events, shown)
    kernel.count = reply.get("execution_count", kernel.count) + 1
    return _outcome(reply, shown)


def show_missed(missed: Kept, shell: Any) -> int:
    """Show what a kernel said while nobody listened, in order; return how many outputs there were."""
    shown = Shown(shell)
    outputs = [said for said in missed.messages if not said.reply and said.header["msg_type"] in OUTPUTS]
    if missed.lost:
        cut = f"[mlvm] the first {missed.lost} messages were not kept\n"
        shown.hear("stream", {"name": "stderr", "text": cut})
    for said in outputs:
        shown.show_value()
        shown.hear(str(said.header["msg_type"]), dict(said.content))
        if shown.error is not None:
            text = "\n".join(shown.error.get("traceback", ())) + "\n"
            shown.hear("stream", {"name": "stderr", "text": text})
            shown.error = None
    shown.show_value()
    return len(outputs)


def _follow(
    kernel: GuestKernel, request: Request, events: queue.SimpleQueue[tuple[str, Any]], shown: Shown
) -> Message:
    """Follow an execution to its end; return the reply."""
    interrupted = False
    while True:
        try:
            kind, what = events.get()
            if kind == "done":
                reply: Message = what
                return reply
            if kind == "lost":
                raise died(what, request, kernel.outcome(request))
            if kind == "message":
                shown.hear(what.kind, what.content())
            elif kind == "input":
                # The person is asked as the frontend's own `input` asks.
                ask: Callable[[str], str] = getpass.getpass if what.get("password") else input
                kernel.link.answer(ask(what.get("prompt", "")))
        except KeyboardInterrupt:
            if interrupted:
                kernel.link.forget(request)
                raise
            interrupted = True
            kernel.link.interrupt()


def died(error: MlvmError, request: Request, outcome: Outcome) -> KernelDiedError:
    """Say that the kernel died, and what is known of what was asked of it."""
    if outcome is Outcome.NEVER_RAN:
        when = "before this cell"
    elif request.begun:
        when = "under the cell"
    else:
        when = "at about the time the cell began"
    return KernelDiedError(f"{error.message} {when} ({outcome})", outcome=outcome, details=error.details)


def _outcome(reply: Message, shown: Shown) -> Result | None:
    """Return the cell's value, or raise what the cell raised."""
    shown.page(reply)
    failed = shown.error or (reply if reply.get("status") == "error" else None)
    if failed is not None:
        shown.show_value()
        error = type(failed["ename"], (GuestCellError,), {})(failed["evalue"])
        error.guest_traceback = list(failed["traceback"])
        raise error
    if reply.get("status") == "aborted":
        raise KernelError("the cell was not run: the kernel was interrupted before it")
    return shown.value
