"""The line to a kernel in a machine: one loop's thread owns all its sockets, requests come from any thread.

Messages stay the frames they came as. What is looked at is the header and whose request it answers, some hundred bytes;
content is parsed only by whoever wants to know it, so that fifty megabytes of output cost no JSON. Signatures are not
checked: the sockets are encrypted to a key that only this kernel has.

What the guest says is foreign. A message that cannot be read is dropped, and never the loop that read it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import zmq
from jupyter_client.manager import KernelManager
from jupyter_client.session import Session

from mlvm.errors import KernelError, MlvmError

T = TypeVar("T")
Content = Mapping[str, Any]
Frame = Any  # bytes, or a zmq.Frame: whatever can be sent

log = logging.getLogger(__name__)

DELIMITER = b"<IDS|MSG>"
CHANNELS = ("shell", "iopub", "stdin", "control")
#: How the ids of our own requests begin; what they cause is shown to nobody.
OWN = "mlvm-"
#: Messages that are taken from a channel before others have their turn in the loop.
BATCH = 64
#: Messages that may wait in a socket. A publisher throws away what exceeds that; ours must not be the narrow place.
QUEUE = 100_000
#: After the reply, outputs may still be on their way; the kernel's `idle` is the last message of a request.
IDLE_DEADLINE = 30.0
#: Seconds from a first reply to asking again: until a subscription has arrived there, what a kernel publishes is lost.
ASK_EVERY = 0.25
#: Seconds between two looks whether a kernel that does not answer still lives.
LOOK_EVERY = 2.0
#: What a kernel says of its outputs; everything else that comes on iopub is between it and its client.
OUTPUTS = frozenset(
    {"stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"}
)
COMMS = frozenset({"comm_open", "comm_msg", "comm_close"})


@dataclass(kw_only=True, slots=True)
class Heard:
    """A message from the guest: its kind, whose request it belongs to, and its frames from the topic on."""

    kind: str
    parent: str
    header: dict[str, Any]
    frames: list[zmq.Frame]
    #: Where the delimiter stands.
    at: int

    @property
    def signed(self) -> list[zmq.Frame]:
        """The four frames a signature is of: header, parent header, metadata, content."""
        return self.frames[self.at + 2 : self.at + 6]

    @property
    def buffers(self) -> list[zmq.Frame]:
        """Binary buffers, as they came."""
        return self.frames[self.at + 6 :]

    def content(self) -> dict[str, Any]:
        """Parse the content. Raises ValueError."""
        return _mapping(self.frames[self.at + 5])

    def said_by(self, session: Session) -> list[Frame]:
        """Return the frames from the signature on as `session`, the frontend's own kernel, would have said them.

        JupyterLab takes a change of the sender's session for a kernel that has been restarted, and drops what it has
        received of the one before and not looked at yet: were there two sessions, it would now and then lose an output.
        """
        header = session.pack({**self.header, "session": session.session})
        _, *others = self.signed
        signature = session.sign([header, *(frame.buffer for frame in others)])
        return [signature, header, *others, *self.buffers]


@dataclass(kw_only=True, slots=True, eq=False)
class Request:
    """Something asked of the kernel: what is still to come, and who is told (in the loop's thread)."""

    kind: str
    msg_id: str
    #: Called with ("input", content), ("message", Heard), ("reply", Heard), ("lost", error) or, when all has come,
    #: ("done", reply's content).
    tell: Callable[[str, Any], None]
    awaited: set[str]
    #: Kinds of outputs that go to `tell`, and not to the front.
    catches: frozenset[str] = frozenset()
    #: Whether the kernel's own busy and idle are passed on, because nobody else says them.
    with_status: bool = False
    #: Whether it has left for the kernel, and whether that has said that it begins.
    sent: bool = False
    begun: bool = False
    reply: dict[str, Any] = field(default_factory=dict)


class Link:
    """Sockets to the kernel of `manager`; `front` is called with outputs nobody caught, in the loop's thread."""

    def __init__(
        self,
        manager: KernelManager,
        loop: asyncio.AbstractEventLoop,
        front: Callable[[Link, Heard, Request | None], None],
    ) -> None:
        self._manager = manager
        self._loop = loop
        self._front = front
        self._session = manager.session
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._requests: dict[str, Request] = {}
        self._lost: MlvmError | None = None
        self._in_loop(self._connect)

    @property
    def waiting(self) -> bool:
        """Tell whether somebody waits for the kernel."""
        return bool(self._requests)

    @property
    def lost(self) -> MlvmError | None:
        """Why there is no kernel any more; None while there is one."""
        return self._lost

    def request(
        self,
        kind: str,
        content: Content,
        *,
        header: Content,
        tell: Callable[[str, Any], None],
        awaits: Sequence[str] = ("reply", "idle"),
        metadata: Content | None = None,
        buffers: Sequence[Frame] = (),
        catches: frozenset[str] = frozenset(),
        with_status: bool = False,
        channel: str = "shell",
    ) -> Request:
        """Ask the kernel; `header` is a frontend's own, so that all answers belong to what it asked."""
        request = Request(
            kind=kind,
            msg_id=header["msg_id"],
            tell=tell,
            awaited=set(awaits),
            catches=catches,
            with_status=with_status,
        )
        frames = self._frames({**header, "msg_type": kind}, metadata or {}, content, buffers)
        self._loop.call_soon_threadsafe(self._send_request, channel, frames, request)
        return request

    def ask(
        self,
        kind: str,
        content: Content,
        *,
        tell: Callable[[str, Any], None] = lambda *_: None,
        awaits: Sequence[str] = ("reply",),
        buffers: Sequence[Frame] = (),
        catches: frozenset[str] = frozenset(),
        channel: str = "shell",
    ) -> Request:
        """Ask the kernel something of our own."""
        header = {**self._session.msg_header(kind), "msg_id": OWN + uuid.uuid4().hex}
        return self.request(
            kind,
            content,
            tell=tell,
            awaits=awaits,
            header=header,
            buffers=buffers,
            catches=catches,
            channel=channel,
        )

    def pass_on(self, msg_id: str, parts: list[Frame], buffers: Sequence[Frame]) -> None:
        """Send a frontend's message as it is, signed anew; the kernel's busy and idle for it go to the front."""
        frames = [DELIMITER, self._session.sign(parts), *parts, *buffers]
        request = Request(
            kind="comm_msg", msg_id=msg_id, tell=lambda *_: None, awaited={"idle"}, with_status=True
        )
        self._loop.call_soon_threadsafe(self._send_request, "shell", frames, request)

    def answer(self, value: str) -> None:
        """Answer the kernel's `input`."""
        header = self._session.msg_header("input_reply")
        self._loop.call_soon_threadsafe(self._send, "stdin", self._frames(header, {}, {"value": value}, ()))

    def interrupt(self) -> None:
        """Interrupt what the kernel runs."""
        self.ask("interrupt_request", {}, channel="control")

    def forget(self, request: Request) -> None:
        """Wait no longer for a request; outputs of it are still passed on."""
        self._loop.call_soon_threadsafe(self._requests.pop, request.msg_id, None)

    def lose(self, error: MlvmError) -> None:
        """Tell everybody who waits that the kernel is gone; later requests are refused with the same words."""
        self._loop.call_soon_threadsafe(self._lose, error)

    def wait_until_ready(
        self, seconds: float, require_alive: Callable[[], None], *, channel: str = "shell"
    ) -> None:
        """Wait until a question on `channel` is answered on all. Raises KernelError, or what `require_alive` raises.

        One question at a time: a slow guest must not find a heap of them.
        """
        deadline = time.monotonic() + seconds
        pause = ASK_EVERY
        while not self._answers(channel, pause, deadline, require_alive):
            pause *= 2  # it was asked before it knew that we listen

    def _answers(
        self, channel: str, pause: float, deadline: float, require_alive: Callable[[], None]
    ) -> bool:
        """Ask once; return whether all of the answer has come, at most `pause` seconds after its first part."""
        news: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        asked = self.ask(
            "kernel_info_request",
            {},
            tell=lambda what, value: news.put((what, value)),
            awaits=("reply", "idle"),
            channel=channel,
        )
        replied = False
        try:
            while True:
                try:
                    what, value = news.get(timeout=pause if replied else LOOK_EVERY)
                except queue.Empty:
                    if time.monotonic() > deadline:
                        raise KernelError("the kernel does not answer") from None
                    require_alive()
                    if replied:
                        return False
                    continue
                if what == "lost":
                    raise value
                if what == "done":
                    return True
                replied = True
        finally:
            self.forget(asked)

    def close(self) -> None:
        """Close the sockets; may be called twice, and when the loop has ended."""
        self._in_loop(self._disconnect, patience=2.0)

    def _connect(self) -> None:
        for channel in CHANNELS:
            # The kernel asks for input whoever has the same name on its other channel.
            socket = getattr(self._manager, f"connect_{channel}")(identity=self._session.bsession)
            self._sockets[channel] = socket
            self._loop.add_reader(socket.FD, self._drain, channel)
            # The descriptor tells of changes, and what has happened until now is none.
            self._loop.call_soon(self._drain, channel)

    def _disconnect(self) -> None:
        self._lose(KernelError("the kernel has been left"))
        while self._sockets:
            _, socket = self._sockets.popitem()
            self._loop.remove_reader(socket.FD)
            socket.close(linger=0)

    def _in_loop(self, work: Callable[[], None], *, patience: float = 30.0) -> None:
        """Do something in the loop's thread and wait for it, if it runs at all."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                work()
                done.set_result(None)
            except BaseException as failed:  # noqa: BLE001  (raised again where it was asked for)
                done.set_exception(failed)

        try:
            self._loop.call_soon_threadsafe(run)
            done.result(patience)
        except (TimeoutError, RuntimeError):
            log.debug("the loop of the kernel's sockets does not run any more")

    def _frames(
        self, header: Content, metadata: Content, content: Content, buffers: Sequence[Frame]
    ) -> list[Frame]:
        pack = self._session.pack
        parts = [pack(header), pack({}), pack(metadata), pack(content)]
        return [DELIMITER, self._session.sign(parts), *parts, *buffers]

    def _send_request(self, channel: str, frames: list[Frame], request: Request) -> None:
        if self._lost is not None:
            request.tell("lost", self._lost)
            return
        request.sent = True
        if request.awaited:
            self._requests[request.msg_id] = request
        self._send(channel, frames)

    def _send(self, channel: str, frames: list[Frame]) -> None:
        socket = self._sockets.get(channel)
        if socket is None:
            return
        try:
            socket.send_multipart(frames, flags=zmq.DONTWAIT, copy=False)
        except zmq.Again:
            log.warning("a message to the kernel was dropped: it takes none")
        # Sending may swallow the descriptor's news of what has come.
        self._loop.call_soon(self._drain, channel)

    def _drain(self, channel: str) -> None:
        """Take what has come; after a batch let the loop's other work have its turn."""
        for _ in range(BATCH):
            socket = self._sockets.get(channel)
            if socket is None:
                return
            try:
                frames = socket.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            except zmq.ZMQError:
                log.exception("the kernel's %s channel cannot be read", channel)
                return
            try:
                self._hear(channel, frames)
            except (ValueError, KeyError, TypeError, IndexError, RecursionError):
                log.warning("a message from the kernel cannot be read", exc_info=True)
            except Exception:
                log.exception("a message from the kernel could not be passed on")
        self._loop.call_soon(self._drain, channel)

    def _hear(self, channel: str, frames: list[zmq.Frame]) -> None:
        at = next(
            i for i, frame in enumerate(frames) if len(frame) == len(DELIMITER) and frame.bytes == DELIMITER
        )
        header = _mapping(frames[at + 2])
        kind = str(header["msg_type"])
        parent = str(_mapping(frames[at + 3]).get("msg_id", ""))
        heard = Heard(kind=kind, parent=parent, header=header, frames=frames, at=at)
        request = self._requests.get(parent)
        if channel == "iopub":
            self._hear_output(heard, request)
        elif request is not None and channel == "stdin":
            if kind == "input_request":
                request.tell("input", heard.content())
        elif request is not None:
            request.reply = heard.content()
            request.tell("reply", heard)
            self._came(request, "reply")

    def _hear_output(self, heard: Heard, request: Request | None) -> None:
        if heard.kind == "status":
            if request is None:
                return
            request.begun = True
            if request.with_status:
                self._front(self, heard, request)
            if heard.content()["execution_state"] == "idle":
                self._came(request, "idle")
        elif heard.kind in OUTPUTS or heard.kind in COMMS:
            if request is not None and heard.kind in request.catches:
                request.tell("message", heard)
            elif not heard.parent.startswith(OWN):
                self._front(self, heard, request)

    def _came(self, request: Request, what: str) -> None:
        request.awaited.discard(what)
        if not request.awaited:
            self._finish(request)
        elif what == "reply":
            self._loop.call_later(IDLE_DEADLINE, self._finish, request)

    def _finish(self, request: Request) -> None:
        if self._requests.pop(request.msg_id, None) is request:
            request.tell("done", request.reply)

    def _lose(self, error: MlvmError) -> None:
        if self._lost is None:
            self._lost = error
        requests, self._requests = self._requests, {}
        for request in requests.values():
            request.tell("lost", self._lost)


def _mapping(frame: zmq.Frame) -> dict[str, Any]:
    found = json.loads(frame.bytes)
    if not isinstance(found, dict):
        raise TypeError("a part of a message is no mapping")
    return found
