"""Where clients come from: virtio-serial ports in the guest, unix sockets in tests.

`wait()` returns the wire to a client once one is there; `lost()` is told that it has gone. Ports
are found by their names in sysfs, not by udev's links, so that the agent need not wait for udev.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH110, PTH112, PTH123, PTH208

from __future__ import annotations

import os
import select
import socket
import subprocess
import time

from .wire import Wire

COUNT = 8
SYSFS = "/sys/class/virtio-ports"


class VirtioPort:
    """A port whose one descriptor outlives its clients: "connected" is what poll says."""

    def __init__(self, device: str) -> None:
        self.fd = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._wire = Wire(self.fd, patience=0.5)
        self._changes = select.epoll()
        # Edge-triggered: the port reports a hang-up for as long as nobody is connected.
        self._changes.register(self.fd, select.EPOLLIN | select.EPOLLET)

    def wait(self) -> Wire:
        """Return the wire once the host side is open, or has said something."""
        while self._wire.hung_up() and not self._wire.arrived():
            self._changes.poll(5)
        return self._wire

    def lost(self) -> None:
        """Keep the wire: the next client uses it."""


class SocketPort:
    """A listening unix socket; one client at a time, as QEMU serves its sockets."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(4)
        self._client: socket.socket | None = None

    def wait(self) -> Wire:
        """Return the wire to the next client."""
        self._client, _ = self._listener.accept()
        self._client.setblocking(False)
        return Wire(self._client.fileno())

    def lost(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()


def open_virtio(seconds: float = 30.0) -> list[VirtioPort]:
    """Open every port named `mlvm.N`, waiting for the first to appear."""
    deadline = time.monotonic() + seconds
    if not os.path.isdir(SYSFS):
        subprocess.run(["/sbin/modprobe", "virtio_console"], check=False)
    while not (found := _named_ports()):
        if time.monotonic() > deadline:
            raise SystemExit("no port named mlvm.N: this is no machine of mlvm")
        time.sleep(0.02)
    while len(found) < COUNT and time.monotonic() < deadline:  # they appear one after another
        time.sleep(0.005)
        found = _named_ports()
    return [VirtioPort(found[name]) for name in sorted(found)]


def _named_ports() -> dict[str, str]:
    """Return name -> device of our ports that are usable now."""
    found = {}
    for entry in os.listdir(SYSFS) if os.path.isdir(SYSFS) else []:
        try:
            with open(f"{SYSFS}/{entry}/name", encoding="ascii") as stream:
                name = stream.read().strip()
        except OSError:
            continue
        if name.startswith("mlvm.") and os.path.exists(f"/dev/{entry}"):
            found[name] = f"/dev/{entry}"
    return found


def open_sockets(folder: str) -> list[SocketPort]:
    """Listen on `agent-N.sock` in `folder`."""
    return [SocketPort(f"{folder}/agent-{number}.sock") for number in range(COUNT)]
