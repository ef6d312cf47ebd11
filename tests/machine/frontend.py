"""A notebook's view of a machine: a kernel in it, and a client of that kernel."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import hearing
import zmq
from jupyter_client import BlockingKernelClient

from mlvm.machine.guest import GuestKernelProcess
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.machine.record import Record


class Notebook:
    """A kernel in a machine, and a client of it."""

    def __init__(
        self,
        provider: QemuProvider,
        record: Record,
        *,
        env: Mapping[str, str] | None = None,
        claim: str = "",
        patience: float = 600,
    ) -> None:
        public, secret = zmq.curve_keypair()
        self.key = secrets.token_hex(16)
        self.provider, self.record, self.guest = provider, record, provider.guest(record)
        connection = {
            "key": self.key,
            "signature_scheme": "hmac-sha256",
            "curve_publickey": public.decode(),
            "curve_secretkey": secret.decode(),
        }
        self.kernel: GuestKernelProcess = self.guest.start_kernel(
            connection, env=env or {}, cwd=None, claim=claim
        )
        self.ports = provider.forward(record, self.kernel.ports)
        self.client = BlockingKernelClient(
            ip="127.0.0.1", curve_publickey=public, curve_secretkey=secret, **self.ports
        )
        self.client.session.key = self.key.encode()
        self.client.start_channels(hb=False)
        hearing.ready(self.client, timeout=patience)

    def run(self, code: str) -> str:
        """Run a cell and return everything it shows."""
        printed: list[str] = []

        def hook(message: dict) -> None:
            content = message["content"]
            printed.extend(content.get("traceback", []))
            printed.append(content.get("text") or content.get("data", {}).get("text/plain", ""))

        self.client.execute_interactive(code, timeout=600, output_hook=hook)
        return "".join(printed)

    def hang_up(self) -> None:
        """Close what is this side's alone: the machine may be gone."""
        self.client.stop_channels()

    def close(self) -> None:
        """Let go of the kernel, which goes on."""
        self.hang_up()
        self.provider.unforward(self.record, self.ports)
