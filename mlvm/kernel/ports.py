"""The five ports of a kernel, and the proof that they lead to it.

A port that accepts a connection proves nothing: QEMU accepts on behalf of a guest that is not listening yet. Only an
echo of the kernel's own heartbeat, under the session's keys, shows that the whole way works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import zmq

#: As in a connection file.
PORT_NAMES = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")

#: Seconds between two questions whether waiting still makes sense; each one is a round trip to the guest.
ASK_EVERY = 1.0


def key_bytes(connection: Mapping[str, object], name: str) -> bytes:
    """Return a key of a connection file as the bytes that sockets want."""
    return str(connection[name]).encode("ascii")


def wait_for_heartbeat(
    port: int, connection: Mapping[str, object], *, seconds: float, keep_waiting: Callable[[], bool]
) -> bool:
    """Wait until the kernel behind heartbeat port 127.0.0.1:`port` echoes; return whether it did.

    Gives up after `seconds`, or as soon as `keep_waiting` says so.
    """
    deadline = time.monotonic() + seconds
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.curve_serverkey = socket.curve_publickey = key_bytes(connection, "curve_publickey")
        socket.curve_secretkey = key_bytes(connection, "curve_secretkey")
        socket.connect(f"tcp://127.0.0.1:{port}")
        socket.send(b"ping")
        while time.monotonic() < deadline:
            if socket.poll(int(ASK_EVERY * 1000)):
                return socket.recv() == b"ping"
            if not keep_waiting():
                return False
    return False
