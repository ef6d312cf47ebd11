"""One cell at a time in a kernel that lives in a machine, its outputs in the cell that asked.

A frontend is one main thread that can be interrupted at any instruction. So the sockets belong to a thread of
Jupyter's own threaded client, messages come through a queue, and an interrupt can neither lose one nor break a socket.
"""

from __future__ import annotations

import getpass
import queue
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager
from jupyter_client.threaded import ThreadedKernelClient, ThreadedZMQSocketChannel
from traitlets import Type

from mlvm.errors import KernelError, MlvmError
from mlvm.kernel import kernelspec
from mlvm.kernel.provisioner import MlvmProvisioner

Message = dict[str, Any]

#: Seconds a kernel may take from its heartbeat to its first answer.
READY_DEADLINE = 120.0
#: Seconds between two looks whether the kernel still lives.
LOOK_EVERY = 2.0
#: After the reply, outputs may still be on their way; the kernel's `idle` is the last message of a cell.
IDLE_DEADLINE = 30.0


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


class CellKernel:
    """A kernel in machine `machine`, started now and kept until `close`."""

    def __init__(self, project: Path, machine: str) -> None:
        self.machine = machine
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._client: Any = None
        self._manager = KernelManager(
            kernel_name=f"mlvm-{machine}",
            kernel_spec_manager=kernelspec.SingleSpec(kernelspec.document(machine, project, machine)),
            client_factory=_client_class(self._inbox),
        )
        try:
            self._manager.start_kernel()
            self._client = self._manager.client()
            self._client.start_channels(hb=False)
            self._wait_until_ready()
        except KernelError as error:
            self.close()
            # What the provisioner made one text of, for Jupyter, had its parts.
            raise error.__cause__ if isinstance(error.__cause__, MlvmError) else error from None
        except BaseException:
            self.close()
            raise

    def alive(self) -> bool:
        """Tell whether the kernel still runs."""
        return bool(self._manager.is_alive())

    def interrupt(self) -> None:
        """Interrupt the cell that runs."""
        self._manager.interrupt_kernel()

    def close(self) -> None:
        """End the kernel; the machine stays. May be called twice."""
        if self._client is not None:
            self._client.stop_channels()
            self._client = None
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=not self.alive())

    def discard(self) -> None:
        """Kill the kernel while the interpreter exits, when nothing asynchronous works any more."""
        if isinstance(self._manager.provisioner, MlvmProvisioner):
            self._manager.provisioner.discard()
        self._manager.cleanup_connection_file()

    def run(self, code: str, shell: Any) -> Result | None:
        """Run `code`; show its outputs through `shell` as they come; return its value, if it has one.

        Raises GuestCellError for an error in the code, KernelError when the kernel dies. The first interrupt goes to
        the guest, a second one gives up waiting: KeyboardInterrupt.
        """
        cell = _Cell(self._client.execute(code, allow_stdin=True, stop_on_error=False), shell)
        interrupted = False
        looked = time.monotonic()
        while not cell.over():
            try:
                self._step(cell)
                if time.monotonic() - looked > LOOK_EVERY:
                    looked = time.monotonic()
                    self._require_alive()
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                self.interrupt()
        return cell.outcome()

    def _step(self, cell: _Cell) -> None:
        try:
            message = self._inbox.get(timeout=LOOK_EVERY / 4)
        except queue.Empty:
            return
        if message["parent_header"].get("msg_id") != cell.request:
            return
        if message["msg_type"] == "input_request":
            self._answer(message["content"])
        else:
            cell.hear(message)

    def _answer(self, asked: Message) -> None:
        """Ask the person what the guest asks; the frontend's own `input` does."""
        ask: Callable[[str], str] = getpass.getpass if asked.get("password") else input
        self._client.input(ask(asked.get("prompt", "")))

    def _require_alive(self) -> None:
        if not self.alive():
            raise KernelError(
                f"the kernel in machine `{self.machine}` died while the cell ran",
                hint="run the cell again: a new kernel is started for it",
            )

    def _wait_until_ready(self) -> None:
        """Wait until an answer has come back on every channel: what a kernel says before that is lost."""
        deadline = time.monotonic() + READY_DEADLINE
        while time.monotonic() < deadline:
            request = self._client.kernel_info()
            with suppress(queue.Empty):
                while message := self._inbox.get(timeout=1):
                    if message["msg_type"] == "status" and message["parent_header"].get("msg_id") == request:
                        return
            self._require_alive()
        raise KernelError(
            f"the kernel in machine `{self.machine}` did not answer in {READY_DEADLINE:.0f} s",
            hint=f"look at the machine with `mlvm ssh {self.machine}`",
        )


class _Cell:
    """What has been heard of one execution, shown as it was heard."""

    def __init__(self, request: str, shell: Any) -> None:
        self.request = request
        self._shell = shell
        self._reply: Message | None = None
        self._replied = 0.0
        self._idle = False
        self._value: Result | None = None
        self._error: Message | None = None

    def over(self) -> bool:
        """Tell whether nothing more will come."""
        return self._reply is not None and (self._idle or time.monotonic() - self._replied > IDLE_DEADLINE)

    def hear(self, message: Message) -> None:
        """Take in a message; comms and echoes of the input are not for us."""
        content = message["content"]
        match message["msg_type"]:
            case "execute_reply":
                self._reply, self._replied = content, time.monotonic()
            case "status":
                self._idle = self._idle or content["execution_state"] == "idle"
            case "stream":
                stream = sys.stderr if content["name"] == "stderr" else sys.stdout
                stream.write(content["text"])
                stream.flush()
            case "display_data":
                self._show(content)
            case "update_display_data":
                self._show(content, update=True)
            case "execute_result":
                self._show_value()
                self._value = Result(content["data"], content["metadata"])
            case "clear_output":
                self._value = None
                self._shell.display_pub.clear_output(wait=content["wait"])
            case "error":
                self._error = content

    def outcome(self) -> Result | None:
        """Return the cell's value, or raise what the cell raised."""
        reply = self._reply or {}
        for payload in reply.get("payload", ()):
            if payload.get("source") == "page":
                self._show({"data": payload["data"], "metadata": {}})
        failed = self._error or (reply if reply.get("status") == "error" else None)
        if failed is not None:
            self._show_value()
            error = type(failed["ename"], (GuestCellError,), {})(failed["evalue"])
            error.guest_traceback = list(failed["traceback"])
            raise error
        if reply.get("status") == "aborted":
            raise KernelError("the cell was not run: the kernel was interrupted before it")
        return self._value

    def _show_value(self) -> None:
        """Show a value that is not the last thing of the cell."""
        if self._value is not None:
            self._show({"data": self._value.data, "metadata": self._value.metadata})
            self._value = None

    def _show(self, content: Message, *, update: bool = False) -> None:
        self._shell.display_pub.publish(
            content["data"], content["metadata"], transient=content.get("transient") or {}, update=update
        )


def _client_class(inbox: queue.SimpleQueue[Message]) -> type[ThreadedKernelClient]:
    """Return a class of clients that put every message they hear into `inbox`."""

    class Channel(ThreadedZMQSocketChannel):
        def call_handlers(self, msg: Message) -> None:
            inbox.put(msg)

    class Client(ThreadedKernelClient):
        shell_channel_class = Type(Channel)
        iopub_channel_class = Type(Channel)
        stdin_channel_class = Type(Channel)

    return Client
