"""A notebook's frontend, as far as the protocol goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

Message = dict[str, Any]
PATIENCE = 300.0

#: Opens the door to a loopback machine inside the notebook's own kernel.
LOOPBACK = """
import pathlib, sys, os
sys.path.insert(0, {tests!r})
from fakes import LoopbackProvider, write_record
from mlvm.kernel import launch
from mlvm.machine import table
from mlvm.machine.record import load
from mlvm.paths import Home
folder = pathlib.Path({folder!r})
provider = LoopbackProvider(folder / "loopback")
write_record(Home.find(), "box", folder)
def open_machine(place, *, observer):
    record = load(place.home, place.machine)
    return record, provider, provider.start(record, None, observer=observer)
launch.open_machine = open_machine
table.provider_for = lambda record: provider
"""


@dataclass
class Ran:
    """What a frontend heard of one request."""

    #: The message that came over the shell channel.
    answer: Message
    heard: list[Message] = field(default_factory=list)

    @property
    def reply(self) -> Message:
        return self.answer["content"]

    def contents(self, kind: str) -> list[Message]:
        return [one["content"] for one in self.heard if one["msg_type"] == kind]

    @property
    def kinds(self) -> list[str]:
        return [one["msg_type"] for one in self.heard]

    @property
    def text(self) -> str:
        return "".join(one["text"] for one in self.contents("stream") if one["name"] == "stdout")

    @property
    def marks(self) -> list[str]:
        shown = [one["data"].get("text/plain", "") for one in self.contents("display_data")]
        return [one.split(",")[0].strip("[]") for one in shown if one.startswith("[ran ")]


class Frontend:
    """Speaks the protocol as a notebook does."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client

    def run(self, code: str, *, allow_stdin: bool = False, wait: bool = True, **more: Any) -> Ran:
        return self.follow(self.client.execute(code, allow_stdin=allow_stdin, **more))

    def follow(self, request: str, *, on_stdin: Callable[[Message], str] | None = None) -> Ran:
        """Hear everything until the request's idle, and its reply."""
        heard: list[Message] = []
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if on_stdin is not None and self.client.stdin_channel.msg_ready():
                self.client.input(on_stdin(self.client.get_stdin_msg(timeout=PATIENCE)))
            if not self.client.iopub_channel.msg_ready():
                time.sleep(0.002)
                continue
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != request:
                continue
            heard.append(message)
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return Ran(self.answer(request), heard)
        raise TimeoutError([one["msg_type"] for one in heard])

    def reply(self, request: str) -> Message:
        return self.answer(request)["content"]

    def answer(self, request: str) -> Message:
        while True:
            message = self.client.get_shell_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") == request:
                return message

    def ask(self, request: str) -> Message:
        return self.reply(request)

    def comm(
        self,
        kind: str,
        content: Message,
        *,
        buffers: list[bytes] | None = None,
        metadata: Message | None = None,
        **header: Any,
    ) -> list[Message]:
        """Send a comm message; return what came of it until its idle."""
        message = self.client.session.msg(kind, content, metadata=metadata)
        message["header"].update(header)
        message["buffers"] = buffers or []
        self.client.shell_channel.send(message)
        heard: list[Message] = []
        while True:
            one = self.client.get_iopub_msg(timeout=PATIENCE)
            if one["parent_header"].get("msg_id") != message["header"]["msg_id"]:
                continue
            heard.append(one)
            if one["msg_type"] == "status" and one["content"]["execution_state"] == "idle":
                return heard
