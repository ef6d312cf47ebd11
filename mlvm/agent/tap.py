"""A kernel's own memory of what it said, and its patience while nobody listens.

Runs in the kernel process. Jupyter's iopub socket throws away what is said while nobody is connected; here it is kept
(`tape`), whoever listens or not, and what nobody heard is *owed*. Who pays depends on who comes back:

- the same client, after a connection that broke or a machine that was suspended: the messages go out as they were, in
  order, before anything new;
- another client, that adopts the kernel after the first one died: it does not know the requests that these messages
  answer. The next cell it runs begins by showing them, under a line that says so. A client that wants the messages
  themselves adopts with `live` and reads the tape.

The socket itself tells when listeners come and go. Beside the tape lies `state`, a JSON object in `STATE_SIZE` bytes,
so that looking at a kernel asks it nothing. A relay process would do the same at twice the cost of bulk output.
"""

# mypy: disable-error-code="no-untyped-call, unused-ignore"
# ruff: noqa: PTH118

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any

import zmq

from .tape import REPLY, UNHEARD, Message, Tape

STATE = "state"
STATE_SIZE = 4096
#: Clients whose connections broke come back one after the other; seconds that the first of them waits for the others.
SETTLE = 1.0
#: How many requests are remembered as begun.
BEGUN = 16
#: libzmq's option that reports every listener, not only the first and the last of a kind.
XPUB_VERBOSER = 78
#: What of a cell can be shown under another one.
SHOWN = frozenset(
    {"stream", "display_data", "update_display_data", "execute_result", "error", "clear_output"}
)


class Tap:
    """Between a kernel and its iopub socket."""

    def __init__(self, app: Any, folder: str) -> None:
        self._app = app
        self._thread = app.iopub_thread
        self._send_now = self._thread._really_send
        self._pid = os.getpid()
        self._tape = Tape(folder)
        self._state_fd = os.open(os.path.join(folder, STATE), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._guard = threading.Lock()
        #: Which cell runs, or ran last, and since when it does or does not.
        self._request, self._busy, self._since, self._cells = "", False, time.time(), 0
        self._begun: deque[str] = deque(maxlen=BEGUN)
        self._sessions: set[str] = set()
        #: How many listen; while `deaf`, what is said is owed, until as many have come back as there were.
        self._listeners = self._fresh = self._expected = 0
        self._deaf = False
        self._timer: Any = None
        #: Number of the first message that is owed, 0 for none; and how many are.
        self._first, self._owed = 0, 0
        #: The clients before an adoption: nobody is there any more who knows their requests.
        self._former: frozenset[str] = frozenset()

    def install(self) -> None:
        """Begin, before anybody can be connected; from here on nothing that is said is lost."""
        self._thread.io_loop.add_callback(self._listen)
        self._thread._really_send = self._send
        self._write_state()

    def join(self) -> None:
        """Follow what cells do; the kernel is there now."""
        self._app.shell.events.register("pre_execute", self._cell_begins)
        session = self._app.kernel.session
        send = session.send

        def send_and_keep(stream: Any, msg_or_type: Any, *rest: Any, **options: Any) -> Any:
            sent = send(stream, msg_or_type, *rest, **options)
            if msg_or_type == "execute_reply" and sent is not None:
                self._keep(REPLY, session.serialize(sent))
            return sent

        session.send = send_and_keep

    def command(self, words: dict[str, Any]) -> None:
        """Do what the agent asks, and return when it is done."""
        done = threading.Event()

        def run() -> None:
            try:
                if "hold" in words:
                    self._go_deaf()
                elif "release" in words:
                    self._pay()
                elif words.get("adopt") == "live":
                    self._former, self._first, self._owed = frozenset(), 0, 0
                    self._pay()
                elif "adopt" in words:
                    self._former = frozenset(self._sessions)
                    self._deaf = False
                self._write_state()
            finally:
                done.set()

        self._thread.io_loop.add_callback(run)
        done.wait(10)

    # ------------------------------------------------------------------------------- in the thread of the socket

    def _listen(self) -> None:
        stream = self._thread._xpub_stream
        self._thread.socket.setsockopt(XPUB_VERBOSER, 1)
        stream.on_recv(self._subscription)
        self._drain()

    def _drain(self) -> None:
        """Take in listeners that came or went while something was sent: the event loop is not told of those."""
        socket = self._thread.socket
        while socket is not None and socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            self._subscription(socket.recv_multipart(zmq.NOBLOCK))

    def _subscription(self, frames: list[bytes]) -> None:
        for frame in frames:
            if frame[:1] == b"\x01":
                self._listeners += 1
                self._fresh += 1
                if self._listeners == 1:
                    self._thread._handle_subscription([frame])
                if self._deaf:
                    self._expect()
            elif self._listeners:
                self._listeners -= 1
                if self._listeners == 0 and not self._deaf:
                    self._go_deaf(1)
        self._write_state()

    def _go_deaf(self, gone: int = 0) -> None:
        self._deaf, self._fresh, self._expected = True, 0, max(self._expected, self._listeners + gone)

    def _expect(self) -> None:
        """Somebody is back: wait a little for the others."""
        loop = self._thread.io_loop
        if self._timer is not None:
            loop.remove_timeout(self._timer)
            self._timer = None
        if self._fresh >= self._expected:
            self._pay()
        else:
            self._timer = loop.call_later(SETTLE, self._pay)

    def _pay(self) -> None:
        """Send everything that is owed, as it was, and be an ordinary socket again."""
        if self._timer is not None:
            self._thread.io_loop.remove_timeout(self._timer)
        self._timer, self._deaf, self._expected = None, False, 0
        if self._first and not self._former:
            messages = self._take_owed()[1]
            for message in messages:
                self._send_now(message.frames)
        self._write_state()

    def _send(self, frames: list[Any], *rest: Any, **options: Any) -> None:
        """Stand in for the iopub thread's own way to send."""
        if os.getpid() != self._pid:
            self._send_now(frames, *rest, **options)
            return
        owed, status = False, None
        self._drain()  # a listener that has gone hears nothing more
        try:
            plain = not (self._deaf or self._former)
            if not plain or b".status" in bytes(frames[0]):
                status, owed = self._judge(frames, plain=plain)
            self._keep(UNHEARD if owed else 0, frames)
            if status or owed:
                self._write_state()
        except Exception:
            traceback.print_exc(file=sys.__stderr__)
        if not owed:
            self._send_now(frames, *rest, **options)
        self._drain()

    def _judge(self, frames: list[Any], *, plain: bool) -> tuple[bool, bool]:
        """Tell whether a message changes what the kernel does, and whether nobody is there for it."""
        frames = [bytes(frame) for frame in frames]
        parts = frames[frames.index(b"<IDS|MSG>") + 2 :]
        parent = json.loads(parts[1])
        if parent.get("msg_type") != "execute_request":
            return False, False
        kind = json.loads(parts[0])["msg_type"]
        idle = kind == "status" and json.loads(parts[3]).get("execution_state") == "idle"
        if idle and parent.get("msg_id") == self._request:
            self._busy, self._since = False, time.time()
        if plain:
            return idle, False
        # An adopter may know whether the kernel is busy with what it never asked for.
        former = parent.get("session") in self._former and kind != "status"
        return idle, self._deaf or former

    # ------------------------------------------------------------------------------------- in the thread of cells

    def _cell_begins(self) -> None:
        try:
            request = self._app.kernel.get_parent("shell")
            header = request.get("header", {})
            self._request, self._busy, self._since = str(header.get("msg_id", "")), True, time.time()
            self._cells += 1
            self._begun.append(self._request)
            self._sessions.add(str(header.get("session", "")))
            self._write_state()
            # What a client asks for its own sake, silently, is seen by nobody.
            seen = not request.get("content", {}).get("silent")
            if seen and self._former and header.get("session") not in self._former:
                self._show_owed()
        except Exception:
            traceback.print_exc(file=sys.__stderr__)

    def _show_owed(self) -> None:
        """Let the cell that begins show what nobody has heard of those before it."""
        self._flush_iopub()
        lost, messages = self._take_owed()
        self._former = frozenset()
        shown = [(m, *_content(m)) for m in messages if not m.flags & REPLY]
        shown = [entry for entry in shown if entry[1] in SHOWN]
        if not shown and not lost:
            return
        began, ended = (
            time.strftime("%H:%M:%S", time.localtime(m.said)) for m in (messages[0], messages[-1])
        )
        gone = f", without the first {lost} messages, which were not kept" if lost else ""
        self._publish("stream", {"name": "stderr", "text": f"[mlvm] said from {began} to {ended} (guest's "
                      f"clock) while nobody was listening{gone}:\n"})  # fmt: skip
        for _, kind, content in shown:
            if kind == "error":
                text = "\n".join(content.get("traceback", ())) + "\n"
                self._publish("stream", {"name": "stderr", "text": text})
            elif kind == "execute_result":
                self._publish("display_data", {"data": content["data"], "metadata": content["metadata"]})
            else:
                self._publish(kind, content)
        self._publish("stream", {"name": "stderr", "text": "[mlvm] end of what was missed\n"})
        self._flush_iopub()

    def _publish(self, kind: str, content: dict[str, Any]) -> None:
        kernel = self._app.kernel
        kernel.session.send(
            kernel.iopub_socket, kind, content, parent=kernel.get_parent("shell"), ident=kernel._topic(kind)
        )

    def _flush_iopub(self) -> None:
        """Return when everything said so far has been through the socket's thread."""
        done = threading.Event()
        self._thread.schedule(done.set)
        done.wait(10)

    # ------------------------------------------------------------------------------------------------- in either

    def _keep(self, flags: int, frames: list[Any]) -> None:
        with self._guard:
            number = self._tape.append(flags, frames)
            if flags & UNHEARD:
                self._first = self._first or number
                self._owed += 1

    def _take_owed(self) -> tuple[int, list[Message]]:
        """Return what is owed, and how much of it is not there any more; from now on nothing is."""
        with self._guard:
            first, owed = self._first, self._owed
            self._first, self._owed = 0, 0
            messages = [m for m in self._tape.read(first - 1) if m.flags & UNHEARD] if first else []
        return owed - len(messages), messages

    def _write_state(self) -> None:
        with self._guard:
            document = {
                "busy": self._busy,
                "request": self._request,
                "since": self._since,
                "cells": self._cells,
                "begun": list(self._begun),
                "listeners": self._listeners,
                "owed": self._owed,
                "first": self._first,
                "last": self._tape.last,
            }
            os.pwrite(self._state_fd, json.dumps(document).encode().ljust(STATE_SIZE), 0)


def _content(message: Message) -> tuple[str, dict[str, Any]]:
    parts = message.frames[message.frames.index(b"<IDS|MSG>") + 2 :]
    return json.loads(parts[0])["msg_type"], json.loads(parts[3])


def install(app: Any, connection_file: str) -> Tap | None:
    """Install a tap for the kernel of a connection file; one that cannot be is told in the log, and done without."""
    try:
        tap = Tap(app, os.path.dirname(connection_file))  # noqa: PTH120
        tap.install()
    except Exception:
        traceback.print_exc(file=sys.__stderr__)
        return None
    return tap
