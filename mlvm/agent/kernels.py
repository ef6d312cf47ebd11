"""Jupyter kernels: processes that belong to the guest, not to whoever asked for them.

The connection file (it holds the session's keys) is 0600 in a folder of 0700 that belongs to the kernel's
user, on a tmpfs. Ports are chosen here, where they are bound, and reported. Every kernel is waited for, so
its exit code is known however late somebody asks.

A kernel is a process of its own (`cradle`), or, where there is a nursery, a fork of that; one may be ready and wait.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH102, PTH103, PTH104, PTH108, PTH118, PTH123

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress

from . import keeping
from .early import Child
from .inherited import NOTEBOOK, Inherited, Waiting
from .kernel import Kernel, channel_pair, receive, script
from .listening import free_ports
from .nursing import BIRTH, Nursery, read_at_start, unchanged
from .wire import Message
from .world import World, account, environment_of, identity_of

LOG_LIMIT = 64 * 1024
#: Seconds in which a kernel that is there answers.
ANSWER = 30.0
#: Seconds that a restored guest waits for its kernels to draw new random numbers.
RENEWAL = 3.0
#: Seconds that a forked guest waits for its kernels to let nobody in any more.
RELEASE = 10.0


class Kernels:
    """All kernels started since the agent began, by id."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._kernels: dict[str, Kernel] = {}
        self._guard = threading.Lock()
        self._nursery: Nursery | None = None
        self._waiting: tuple[Kernel, str] | None = None
        #: The kernel that the boot has started, and the id of its log.
        self._early: tuple[Kernel, str] | None = None
        self.inherited = Inherited()

    def expect(self, child: Child) -> None:
        """Know the kernel that the boot has started: the first start will claim it."""
        kernel = Kernel(child.pid, socket.socket(fileno=child.channel))
        threading.Thread(target=lambda: kernel.end(child.wait()), daemon=True).start()
        self._early = (kernel, child.log_id)

    def prepare(self, request: Message) -> Message:
        """Import `modules` in a nursery, unless there is one, and have a kernel ready; return when it waits."""
        if self._nursery is None or not self._nursery.alive:
            self._early_kernel("", None)
            env = dict(request.get("env") or {})
            self._nursery = Nursery(self.world, [str(name) for name in request["modules"]], env)
        else:
            self._forget_ended()
        log_id = os.urandom(16).hex()
        kernel = self._fork(self._nursery, log_id)
        answer = receive(kernel.channel, BIRTH)
        if not answer.get("ready"):
            raise OSError(f"the kernel does not get ready: {answer}")
        self._nursery.imports(answer["imported"])
        self._nursery.folders = self._nursery.folders or answer["folders"]  # as they were when it imported
        self._waiting = (kernel, log_id)
        return {"pid": kernel.pid}

    def _forget_ended(self) -> None:
        """Forget kernels that were only a rehearsal, with all they said; one that is being killed is waited for."""
        for kernel in self._kernels.values():
            kernel.ended.wait(ANSWER)
        ended = {kernel_id: one for kernel_id, one in self._kernels.items() if one.ended.is_set()}
        keeping.bury(ended, but=0)
        for kernel_id in ended:
            del self._kernels[kernel_id]
            with suppress(OSError):
                os.unlink(self.world.log(kernel_id))

    def renew(self) -> None:
        """Tell every kernel that this machine is a copy now, and wait a little.

        One that is busy with something that is no Python hears it when it comes back to that.
        """
        living = [kernel for kernel in self._kernels.values() if not kernel.ended.is_set()]
        for kernel in living:
            kernel.tell({"renew": True})
        deadline = time.monotonic() + RENEWAL
        for kernel in living:
            kernel.hear(max(0.0, deadline - time.monotonic()))

    def release(self) -> list[Message]:
        """Have the kernels of a fork forget what the clients of the machine before know, and wait."""
        locked = self._guard.acquire(
            timeout=RENEWAL
        )  # a start that went on in the machine before may hold it
        try:
            kernels, self._kernels = self._kernels, {}
            self.inherited.release(kernels, RELEASE)
        finally:
            if locked:
                self._guard.release()
        return self.inherited.listing()

    def waiting(self) -> list[Message]:
        """Return the kernels that wait to be claimed, with somebody's variables."""
        return self.inherited.listing()

    def start(self, request: Message) -> Message:
        """Start an ipykernel that serves the connection asked for, on ports chosen here; or claim one that waits."""
        who = account(self.world.user)
        kernel_id = os.urandom(16).hex()
        extra = dict(request.get("env") or {})
        keeping.bury(self._kernels)
        connection = dict(request["connection"])
        cwd = request.get("cwd") or who.pw_dir
        with self._guard:  # two starts at once must not choose the same ports
            ports = free_ports(self.world.kernel_ip, keeping.ports_of(self._kernels))
            connection.update(ports, ip=self.world.kernel_ip, transport="tcp")
            claimed = self.inherited.take(request.get("claim") or "", extra.get(NOTEBOOK, ""))
            # One that waits has said things, which are kept in its folder.
            folder = claimed.kernel.folder if claimed and claimed.kernel.folder else ""
            folder = folder or self._private_folder(kernel_id, who.pw_uid, who.pw_gid)
            path = os.path.join(folder, "connection.json")
            _write_private(path, json.dumps(connection), who.pw_uid, who.pw_gid)
            about = {"connection": connection, "env": extra, "started": time.time()}
            if claimed:
                self._claim(claimed, kernel_id, {"claim": path, "env": extra})
                claimed.kernel.folder, claimed.kernel.about = folder, about
                return {"kernel_id": kernel_id, "pid": claimed.kernel.pid, "ports": ports, "serves": True}
            ready = self._ready_kernel(kernel_id, extra)
            kernel = self._kernels[kernel_id] = ready or self._spawn(kernel_id, extra, cwd)
            kernel.folder = folder
            kernel.about = about
            claim = {"claim": path, "env": extra, "cwd": cwd}
            kernel.channel.send(json.dumps(claim).encode())
            if ready and "error" in (answer := receive(kernel.channel, ANSWER)):
                raise OSError(answer["error"])
        return {"kernel_id": kernel_id, "pid": kernel.pid, "ports": ports, "serves": bool(ready)}

    def poll(self, request: Message) -> int | None:
        """Return a kernel's exit code, or None while it runs; wait up to `wait` seconds for its end."""
        kernel = self._kernel(request)
        kernel.ended.wait(float(request.get("wait", 0)))
        return kernel.code

    def signal(self, request: Message) -> None:
        """Send a signal to a kernel's process group; nothing happens when it has ended."""
        kernel, number = self._kernel(request), signal.Signals(int(request["signal"]))
        if kernel.code is None:
            with suppress(ProcessLookupError):
                os.killpg(kernel.pid, number)

    def log(self, request: Message) -> str:
        """Return the end of what a kernel wrote to its own stdout and stderr."""
        self._kernel(request)
        with open(self.world.log(request["kernel_id"]), "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - LOG_LIMIT))
            return log.read().decode("utf-8", "replace")

    def _claim(self, waiting: Waiting, kernel_id: str, claim: Message) -> None:
        """Let a kernel that waits serve a connection, under a new id; what it has written comes along."""
        kernel = waiting.kernel
        try:
            kernel.tell(claim)
            deadline = time.monotonic() + ANSWER
            while "ok" not in (answer := receive(kernel.channel, max(0.0, deadline - time.monotonic()))):
                if "error" in answer:
                    raise OSError(answer["error"])
        except OSError as silent:
            self.inherited.put_back(waiting)
            raise OSError(
                f"kernel {waiting.kernel_id[:12]} waits here and cannot be claimed: {silent}"
            ) from None
        with suppress(OSError):
            os.rename(self.world.log(waiting.kernel_id), self.world.log(kernel_id))
        self._kernels[kernel_id] = kernel

    def _ready_kernel(self, kernel_id: str, env: dict[str, str]) -> Kernel | None:
        """Return the kernel that waits, or else a fork; None when there is no nursery that fits."""
        nursery = self._nursery
        if nursery is None:
            return self._early_kernel(kernel_id, env)
        if not nursery.alive or not nursery.fits(env):
            return None
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting[0].ended.is_set():
            os.rename(self.world.log(waiting[1]), self.world.log(kernel_id))
            return waiting[0]
        kernel = self._fork(nursery, kernel_id)
        receive(kernel.channel, BIRTH)
        return kernel

    def _early_kernel(self, kernel_id: str, env: dict[str, str] | None) -> Kernel | None:
        """Return the kernel that the boot has started, where it is as good as one started now; else end it."""
        early, self._early = self._early, None
        if early is None:
            return None
        kernel, log_id = early
        if env is not None and not read_at_start(env):
            with suppress(
                OSError
            ):  # it has ended (an old ipykernel cannot wait), or is not ready for ever so long
                answer = receive(kernel.channel, BIRTH)
                if answer.get("ready") and unchanged(answer["folders"]):
                    os.rename(self.world.log(log_id), self.world.log(kernel_id))
                    return kernel
        with suppress(ProcessLookupError):
            os.kill(kernel.pid, signal.SIGKILL)
        kernel.ended.wait(ANSWER)
        with suppress(OSError):
            os.unlink(self.world.log(log_id))
        return None

    def _fork(self, nursery: Nursery, log_id: str) -> Kernel:
        os.makedirs(self.world.logs, mode=0o755, exist_ok=True)
        with open(self.world.log(log_id), "ab") as log:
            return nursery.fork(log.fileno())

    def _spawn(self, kernel_id: str, env: dict[str, str], cwd: str) -> Kernel:
        """Start a kernel as a process of its own."""
        who = account(self.world.user)
        ours, theirs = channel_pair()
        os.makedirs(self.world.logs, mode=0o755, exist_ok=True)
        with theirs, open(self.world.log(kernel_id), "ab") as log:
            child = subprocess.Popen(
                [self.world.python, script("cradle.py"), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment_of(self.world, who, env),
                cwd=cwd,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                **identity_of(who),  # type: ignore[call-overload]
            )
        kernel = Kernel(child.pid, ours)
        threading.Thread(target=lambda: kernel.end(child.wait()), daemon=True).start()
        return kernel

    def all(self) -> dict[str, Kernel]:
        """Return every kernel that is remembered, by id."""
        return dict(self._kernels)

    def _kernel(self, request: Message) -> Kernel:
        kernel_id = request["kernel_id"]
        try:
            return self._kernels[kernel_id]
        except KeyError:
            raise LookupError(f"there is no kernel `{kernel_id}`") from None

    def _private_folder(self, kernel_id: str, uid: int, gid: int) -> str:
        os.makedirs(self.world.kernels, mode=0o711, exist_ok=True)
        folder = os.path.join(self.world.kernels, kernel_id)
        os.mkdir(folder, 0o700)
        os.chown(folder, uid, gid)
        return folder


def _write_private(path: str, text: str, uid: int, gid: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as stream:
        os.fchown(fd, uid, gid)
        stream.write(text)
