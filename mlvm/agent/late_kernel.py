"""A kernel that is ready before it knows its keys.

In a process the nursery has forked: `serve_later` does all that an ipykernel does at its start, runs a few cells for
rehearsal, and waits. Besides what `cradle` says, it says {"ready": true, "folders": {...}} when it waits for its claim
(`folders` are where it has imported from), and {"ok": null} or {"error": "..."} to it.

While it waits it listens nowhere and holds no key: its sockets are there, and are bound when the claim brings keys and
ports. So its memory can be copied to any number of machines, and nothing in it opens any of them.
"""

# mypy: disable-error-code="no-untyped-call, unused-ignore, misc"

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import Session
from tornado.ioloop import IOLoop

from . import tap
from .admission import admit, in_loop
from .cradle import Channel, folders, renew, stay_in_touch

if not hasattr(IPKernelApp, "_apply_curve_server_options"):
    raise ImportError("this ipykernel is too old to be forked: it cannot take its keys late")

#: Where the rehearsal speaks to its own process.
REHEARSAL = "inproc://mlvm-rehearsal-"
#: One cell with a value, one that prints, one that fails: what the three need is imported then.
REHEARSED = ("1 + 1", "print(end='')", "raise KeyboardInterrupt")
BRIEFLY = ("1 + 1",)


class LateKernelApp(IPKernelApp):
    """An ipykernel whose sockets are bound by `admission`, when everything else is done."""

    def init_connection_file(self) -> None:
        """There is none yet."""

    def init_heartbeat(self) -> None:
        """It would listen."""

    def write_connection_file(self, **_: Any) -> None:
        """The agent writes it."""

    def log_connection_info(self) -> None:
        """Nothing to tell."""
        self._ports = {}

    def _bind_socket(self, s: Any, port: int) -> int:
        del s
        return port

    def rehearse(self, cells: tuple[str, ...]) -> None:
        """Run cells the whole way through the sockets, from a thread; leave nothing of them behind."""
        shell, iopub = self.shell_socket, self.iopub_thread.socket
        in_loop(self.shell_channel_thread.io_loop, shell.bind, REHEARSAL + "shell")
        in_loop(self.iopub_thread.io_loop, iopub.bind, REHEARSAL + "iopub")
        try:
            _play(self.context, self.session.key, cells)
        finally:
            in_loop(self.shell_channel_thread.io_loop, shell.unbind, REHEARSAL + "shell")
            in_loop(self.iopub_thread.io_loop, iopub.unbind, REHEARSAL + "iopub")


def serve_later(channel: Channel, *, brief: bool = False) -> None:
    """Be a kernel that does everything it can, and then waits for its claim; `brief` when somebody may wait already."""
    app: Any = LateKernelApp.instance()
    app.initialize([])
    loop = IOLoop.current()
    namespace = dict(app.shell.user_ns)
    known = set(sys.modules)

    def wait_for_claim() -> None:
        app.shell.user_ns.clear()
        app.shell.user_ns.update(namespace)
        loop.add_handler(channel.socket, claimed, loop.READ)
        channel.send({"ready": True, "imported": sorted(set(sys.modules) - known), "folders": folders()})

    def claimed(*_: Any) -> None:
        loop.remove_handler(channel.socket)
        try:
            claim = channel.receive()
        except EOFError:
            os._exit(0)  # nobody will ever come
        try:
            os.environ.update(claim.get("env") or {})
            os.chdir(claim["cwd"])
            renew(app)
            kept = tap.install(app, claim["claim"])
            if kept is not None:
                kept.join()
            admit(app, claim["claim"])
        except Exception as failed:
            channel.send({"error": f"{type(failed).__name__}: {failed}"})
            os._exit(1)
        channel.send({"ok": None})
        stay_in_touch(app, channel, kept)

    def rehearse() -> None:
        try:
            app.rehearse(BRIEFLY if brief else REHEARSED)
        finally:
            loop.add_callback(wait_for_claim)

    loop.add_callback(threading.Thread(target=rehearse, daemon=True).start)
    app.start()


def _play(context: Any, key: bytes, cells: tuple[str, ...]) -> None:
    """Be the client of a rehearsal."""
    session = Session(key=key)
    with context.socket(zmq.SUB) as iopub, context.socket(zmq.DEALER) as shell:
        iopub.subscribe(b"")
        iopub.connect(REHEARSAL + "iopub")
        shell.connect(REHEARSAL + "shell")
        for kind, content in (
            ("kernel_info_request", {}),
            *(("execute_request", {"code": code, "silent": False, "store_history": False}) for code in cells),
        ):
            request = session.msg(kind, content)
            session.send(shell, request)
            _, reply = session.feed_identities(shell.recv_multipart())
            session.deserialize(reply)
            while iopub.poll(5000):
                _, message = session.feed_identities(iopub.recv_multipart())
                heard = session.deserialize(message)
                ours = heard["parent_header"].get("msg_id") == request["header"]["msg_id"]
                if ours and heard["content"].get("execution_state") == "idle":
                    break
