"""Knows at once when a kernel is gone.

A connection to its heartbeat port, on which nothing is ever sent: it ends when the kernel's process or its QEMU does,
and the host's own TCP tells. So nobody has to ask an emulated guest again and again. That the connection ended is no
proof of death, since a suspended machine ends it too; it is the moment to ask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

from mlvm.kernel.ports import key_bytes

#: Milliseconds between two looks whether the watch is still wanted.
LOOK_EVERY = 200


class Watch:
    """Watches the kernel behind heartbeat port 127.0.0.1:`port`; `lost` is called, in a thread, when it may be gone."""

    def __init__(self, port: int, connection: Mapping[str, object], *, lost: Callable[[], object]) -> None:
        self.connected = False
        self._closed = threading.Event()
        self._lost = lost
        self._thread = threading.Thread(
            target=self._run, args=(port, dict(connection)), name="mlvm-watch", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Watch no longer; may be called twice, and from `lost`."""
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(10)

    def _run(self, port: int, connection: Mapping[str, object]) -> None:
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.linger = 0
            socket.reconnect_ivl, socket.reconnect_ivl_max = 200, 5000
            if connection.get("curve_publickey"):
                socket.curve_serverkey = socket.curve_publickey = key_bytes(connection, "curve_publickey")
                socket.curve_secretkey = key_bytes(connection, "curve_secretkey")
            events = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED
            with socket.get_monitor_socket(events) as monitor:
                socket.connect(f"tcp://127.0.0.1:{port}")
                while not self._closed.is_set():
                    if monitor.poll(LOOK_EVERY):
                        self._hear(recv_monitor_message(monitor)["event"])
                with suppress(zmq.ZMQError):
                    socket.disable_monitor()

    def _hear(self, event: int) -> None:
        was, self.connected = self.connected, event == zmq.Event.HANDSHAKE_SUCCEEDED
        if was and not self.connected:
            self._lost()
