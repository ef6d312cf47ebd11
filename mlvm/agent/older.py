"""An ipykernel from before CurveZMQ, made to serve only who holds the keys of its connection file.

Python 3.9 has no newer one than 6.31. Its sockets get their keys here, between being made and being bound; whoever has
no key cannot shake hands. What needs the newer one's insides is done without: a tap (what nobody hears is lost, as with
any such kernel), and being forked from a nursery.
"""

# mypy: disable-error-code="no-untyped-call, unused-ignore, misc, attr-defined"

from __future__ import annotations

import json
from typing import Any

import zmq
from ipykernel.heartbeat import Heartbeat
from ipykernel.kernelapp import IPKernelApp


class OlderApp(IPKernelApp):
    """An ipykernel 6 whose sockets want keys."""

    #: Public and secret, of the connection file.
    keys: Any = None

    def load_connection_file(self, connection_file: Any = None) -> None:
        """Take the keys as well."""
        super().load_connection_file(connection_file)
        with open(self.abs_connection_file, encoding="utf-8") as stream:  # noqa: PTH123
            told = json.load(stream)
        if "curve_secretkey" in told:
            self.keys = told["curve_publickey"].encode(), told["curve_secretkey"].encode()

    def _bind_socket(self, s: Any, port: int) -> Any:
        self._guard(s)
        return super()._bind_socket(s, port)

    def init_control(self, context: Any) -> None:
        """Let the debugger's own client, which is connected already, begin anew with keys."""
        super().init_control(context)
        if self.keys is not None:
            own = self.debug_shell_socket
            endpoint = self.shell_socket.getsockopt(zmq.LAST_ENDPOINT)
            own.disconnect(endpoint)
            own.curve_publickey, own.curve_secretkey = self.keys
            own.curve_serverkey = self.keys[0]
            own.connect(endpoint)

    def init_heartbeat(self) -> None:
        """Its socket is made in a thread of its own, of a context that has the keys beforehand."""
        context = zmq.Context()
        self._guard(context)
        self.heartbeat = Heartbeat(context, (self.transport, self.ip, self.hb_port))
        self.hb_port = self.heartbeat.port
        self.heartbeat.start()

    def _guard(self, place: Any) -> None:
        """Give a socket, or whatever sockets a context will make, the server's keys."""
        if self.keys is not None:
            place.curve_secretkey = self.keys[1]
            place.curve_publickey = self.keys[0]
            place.curve_server = True
