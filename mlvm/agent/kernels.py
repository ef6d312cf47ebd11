"""Jupyter kernels: processes that belong to the guest, not to whoever asked for them.

The connection file (it holds the session's keys) is 0600 in a folder of 0700 that belongs to the kernel's
user, on a tmpfs. Ports are chosen here, where they are bound, and reported. Every kernel is waited for, so
its exit code is known however late somebody asks.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH102, PTH103, PTH106, PTH108, PTH118, PTH120, PTH123

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from contextlib import suppress

from .wire import Message
from .world import World, account, environment_of, identity_of

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
LOG_LIMIT = 64 * 1024


class Kernels:
    """All kernels started since the agent began, by id."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._guard = threading.Lock()

    def start(self, request: Message) -> Message:
        """Start an ipykernel that serves the connection asked for, on ports chosen here."""
        who = account(self.world.user)
        kernel_id = os.urandom(16).hex()
        folder = self._private_folder(kernel_id, who.pw_uid, who.pw_gid)
        connection = dict(request["connection"])
        path = os.path.join(folder, "connection.json")
        env = environment_of(self.world, who, dict(request.get("env") or {}))
        with self._guard:  # two starts at once must not choose the same ports
            ports = free_ports(self.world.kernel_ip)
            connection.update(ports, ip=self.world.kernel_ip, transport="tcp")
            _write_private(path, json.dumps(connection), who.pw_uid, who.pw_gid)
            os.makedirs(self.world.logs, mode=0o755, exist_ok=True)
            with open(self._log(kernel_id), "ab") as log:
                child = subprocess.Popen(
                    [self.world.python, "-m", "ipykernel_launcher", "-f", path],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=env,
                    cwd=request.get("cwd") or who.pw_dir,
                    start_new_session=True,
                    **identity_of(who),  # type: ignore[call-overload]
                )
            self._children[kernel_id] = child
        threading.Thread(target=self._await, args=(child, path), daemon=True).start()
        return {"kernel_id": kernel_id, "pid": child.pid, "ports": ports}

    def poll(self, request: Message) -> int | None:
        """Return a kernel's exit code, or None while it runs."""
        return self._child(request).poll()

    def signal(self, request: Message) -> None:
        """Send a signal to a kernel's process group; nothing happens when it has ended."""
        child, number = self._child(request), signal.Signals(int(request["signal"]))
        if child.poll() is None:
            os.killpg(child.pid, number)

    def log(self, request: Message) -> str:
        """Return the end of what a kernel wrote to its own stdout and stderr."""
        self._child(request)
        with open(self._log(request["kernel_id"]), "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_LIMIT))
            return log.read().decode("utf-8", "replace")

    def _child(self, request: Message) -> subprocess.Popen[bytes]:
        kernel_id = request["kernel_id"]
        try:
            return self._children[kernel_id]
        except KeyError:
            raise LookupError(f"there is no kernel `{kernel_id}`") from None

    def _log(self, kernel_id: str) -> str:
        return os.path.join(self.world.logs, f"kernel-{kernel_id}.log")

    def _private_folder(self, kernel_id: str, uid: int, gid: int) -> str:
        os.makedirs(self.world.kernels, mode=0o711, exist_ok=True)
        folder = os.path.join(self.world.kernels, kernel_id)
        os.mkdir(folder, 0o700)
        os.chown(folder, uid, gid)
        return folder

    @staticmethod
    def _await(child: subprocess.Popen[bytes], path: str) -> None:
        """Wait for a kernel's end; its keys end with it."""
        child.wait()
        with suppress(OSError):  # the kernel tidies up too, and may have left something of its own
            os.unlink(path)
            os.rmdir(os.path.dirname(path))


def free_ports(ip: str) -> dict[str, int]:
    """Return five ports nobody listens on now, all different."""
    held = [socket.socket() for _ in PORTS]
    try:
        for one in held:
            one.bind((ip, 0))
        return {name: one.getsockname()[1] for name, one in zip(PORTS, held)}  # noqa: B905 - 3.9
    finally:
        for one in held:
            one.close()


def _write_private(path: str, text: str, uid: int, gid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as stream:
        os.fchown(fd, uid, gid)
        stream.write(text)
