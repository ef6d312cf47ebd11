"""Who may speak to a kernel process: nobody any more, or whoever holds the keys of a new connection file.

Loaded by kernel processes. A kernel that is ready before it knows its keys is let in here for the first time. One that
finds itself in a fork of its machine gives up everything that the clients of the machine before know, ports and keys,
and becomes such a kernel again, with all its variables; so `release` and `admit` may come in turns.

Each socket is touched only in the thread that owns it. A cell may run meanwhile, and blocks nothing of this: what
belongs to the main thread waits for the cell's end, and nobody waits for that.
"""

# mypy: disable-error-code="no-untyped-call, unused-ignore, misc"

from __future__ import annotations

import json
import os
import threading
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import zmq
from ipykernel.kernelapp import IPKernelApp

from .cradle import insist_on_heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable

CHANNELS = ("shell", "iopub", "stdin", "hb", "control")
#: Where a notebook server tells a kernel which notebook it is for.
NOTEBOOK = "JPY_SESSION_NAME"
#: Does what the agent asks in the order it asks, in no thread that owns a socket.
_worker = ThreadPoolExecutor(1, "mlvm-admission")


def hear(app: Any, channel: Any, message: dict[str, Any], renew: Callable[[Any], None]) -> None:
    """Do what the agent asks of a kernel whose machine is a fork, in the background, and answer."""

    def work() -> None:
        try:
            if "release" in message:
                renew(app)
                release(app)
                channel.send(
                    {"released": {"notebook": os.environ.get(NOTEBOOK, ""), "active": last_asked(app)}}
                )
            elif "claim" in message:
                os.environ.update(message.get("env") or {})
                renew(
                    app
                )  # it may have waited through a suspension, or in a snapshot, and been copied with it
                admit(app, message["claim"])
                channel.send({"ok": None})
        except BaseException as failed:
            channel.send({"error": f"{type(failed).__name__}: {failed}"})

    _worker.submit(work)


def admit(app: Any, connection_file: str) -> None:
    """Take keys and ports from a connection file, and listen."""
    _take(app, connection_file)
    app.session.session = str(uuid.uuid4())
    app.kernel.ident = str(uuid.uuid4())
    in_loop(app.shell_channel_thread.io_loop, _open, app, app.shell_socket, app.shell_port)
    in_loop(app.control_thread.io_loop, _open, app, app.control_socket, app.control_port)
    in_loop(app.control_thread.io_loop, _join, app)
    in_loop(app.iopub_thread.io_loop, _open, app, app.iopub_thread.socket, app.iopub_port)
    _in_main(app, lambda: _open(app, app.stdin_socket, app.stdin_port))
    insist_on_heartbeat(app)
    IPKernelApp.init_heartbeat(app)
    app._ports = {channel: getattr(app, channel + "_port") for channel in CHANNELS}
    app.kernel.record_ports({name + "_port": port for name, port in app._ports.items()})


def release(app: Any) -> None:
    """Listen nowhere, know no key, and hear none of those who were connected."""
    # What they have sent and nobody has read yet is signed with the old key: it is not run here as well.
    app.session.key = os.urandom(32).hex().encode()
    app.session.session = str(uuid.uuid4())
    in_loop(app.shell_channel_thread.io_loop, _close, app.shell_socket)
    in_loop(app.control_thread.io_loop, _close, app.control_socket)
    in_loop(app.control_thread.io_loop, _part, app.debug_shell_socket)
    in_loop(app.iopub_thread.io_loop, _close, app.iopub_thread.socket)
    _in_main(app, lambda: _close(app.stdin_socket))
    heartbeat, app.heartbeat = app.heartbeat, None
    if heartbeat is not None:
        heartbeat.context.term()
        heartbeat.join(10)
    app.curve_publickey = app.curve_secretkey = None


def last_asked(app: Any) -> float:
    """Return when a client last asked this kernel for anything, by that client's clock; 0 for never."""
    try:
        return float(app.kernel.get_parent("shell")["header"]["date"].timestamp())
    except Exception:
        return 0.0


def in_loop(loop: Any, work: Callable[..., None], *arguments: Any) -> None:
    """Do something in the thread that owns a socket, and wait for it."""
    done: Future[None] = Future()

    def run() -> None:
        try:
            work(*arguments)
            done.set_result(None)
        except BaseException as failed:
            done.set_exception(failed)

    loop.add_callback(run)
    done.result(30)


def _in_main(app: Any, work: Callable[[], None]) -> None:
    """Do something in the main thread: now if that is this one, else when it comes back from a cell."""
    if threading.current_thread() is threading.main_thread():
        work()
    else:
        app.io_loop.add_callback(work)


def _take(app: Any, connection_file: str) -> None:
    """Take over what a connection file says.

    `load_connection_file` would do, and would also run `ip` to learn which addresses are ours: half a second under
    emulation.
    """
    app.connection_file = connection_file
    with open(connection_file, encoding="utf-8") as stream:  # noqa: PTH123
        told = json.load(stream)
    for name in ("ip", "transport", *(f"{channel}_port" for channel in CHANNELS)):
        setattr(app, name, told[name])
    app.session.key = told["key"].encode()
    app.session.signature_scheme = told.get("signature_scheme", app.session.signature_scheme)
    if "curve_secretkey" in told:
        app.curve_publickey = told["curve_publickey"].encode()
        app.curve_secretkey = told["curve_secretkey"].encode()


def _open(app: Any, bare: Any, port: int) -> None:
    app._apply_curve_server_options(bare)
    IPKernelApp._bind_socket(app, bare, port)


def _join(app: Any) -> None:
    """Let the debugger's own client find the shell channel."""
    app._apply_curve_client_options(app.debug_shell_socket)
    app.debug_shell_socket.connect(f"{app.transport}://{app.ip}:{app.shell_port}")


def _close(bare: Any) -> None:
    """Stop listening; libzmq hangs up on everybody who came in through there."""
    with suppress(zmq.ZMQError):  # it does not listen: nobody has claimed it since
        bare.unbind(bare.last_endpoint)


def _part(bare: Any) -> None:
    with suppress(zmq.ZMQError):
        bare.disconnect(bare.last_endpoint)
