"""Jupyter's way to a kernel in a machine: a kernel provisioner, found through its entry point `mlvm`.

Everything it does is plain blocking code of `launch`; this is the one asynchronous module, and it hands that code to
threads. Connections are encrypted whatever the frontend's configuration says: the kernel's ports are forwarded to
127.0.0.1, where every local process could otherwise read all outputs. Keys and ports survive a restart, so that
connected frontends stay connected.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import zmq
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Unicode

from mlvm.errors import KernelError, MlvmError, Outcome
from mlvm.events import Observer
from mlvm.kernel import launch, registry
from mlvm.kernel.ports import PORT_NAMES
from mlvm.kernel.watch import Watch
from mlvm.machine.guest import GuestKernelProcess
from mlvm.machine.table import provider_for
from mlvm.paths import Home

T = TypeVar("T")

#: What a frontend may tell the kernel through its environment. Everything else of the host stays on the host.
PASSED_ON = frozenset({"JPY_SESSION_NAME"})

#: Frontends give a kernel 60 s to answer; somewhat earlier is the moment to say what takes so long.
EXPLAIN_AFTER = 45.0

#: While the watch on a kernel holds, the guest is asked no more often than so many seconds.
TRUST = 3.0
#: Seconds between two looks of Jupyter's restarter; they cost nothing while the watch holds.
LOOK_EVERY = 1.0

#: Seconds for a polite shutdown; an emulated guest needs some.
SHUTDOWN_WAIT = 10.0
#: Seconds after which a started kernel counts as stable.
STABLE_AFTER = 30.0


class MlvmProvisioner(KernelProvisionerBase):
    """Runs one kernel in machine `machine` of the project in folder `project`; serves its restarts too."""

    project = Unicode(config=True, help="Folder of the mlvm.yaml whose machine the kernel runs in")
    machine = Unicode(config=True, help="Name of the machine")
    adopt = Unicode(config=True, help="Id of a kernel that lives there, to go on with; none, start one")

    #: Whether the kernel was there before us.
    adopted = False
    _kernel: launch.LiveKernel | None = None
    _watch: Watch | None = None
    _asked = 0.0
    _started_before = False
    _left_behind: launch.LiveKernel | None = None
    _lost = False
    _asked_to_restart = False
    _ending = False

    @property
    def _manager(self) -> KernelManager:
        """The manager that made us; it holds the session's keys and the ports its clients know."""
        return cast(KernelManager, self.parent)

    @property
    def has_process(self) -> bool:
        """Tell whether there is a kernel, running or not yet waited for."""
        return self._kernel is not None

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Make the session's keys and choose what of the environment goes to the guest."""
        manager = self._manager
        if manager.transport != "tcp":
            raise KernelError(
                f"a kernel in a machine is reached by tcp, not `{manager.transport}`",
                hint='leave `KernelManager.transport` at "tcp"',
            )
        if not zmq.has("curve"):
            raise KernelError(
                "this pyzmq cannot encrypt connections",
                hint="pip install --force-reinstall --only-binary :all: pyzmq",
            )
        if manager.curve_publickey is None:
            manager.curve_publickey, manager.curve_secretkey = zmq.curve_keypair()
        manager.config.KernelRestarter.setdefault("time_to_dead", LOOK_EVERY)
        kwargs.pop("extra_arguments", None)
        kwargs["cmd"] = list(self.kernel_spec.argv)
        kwargs = await super().pre_launch(**kwargs)
        wanted = PASSED_ON | set(self.kernel_spec.env)
        kwargs["env"] = {name: value for name, value in kwargs["env"].items() if name in wanted}
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Start the kernel, and the machine when it does not run; return how to reach the kernel.

        A kernel that ended because somebody stopped its machine is not restarted automatically: that would start the
        machine again, against what was asked for.
        """
        if self._lost and not self._asked_to_restart:
            self._lost = False
            raise KernelError(
                f"machine `{self.machine}` went away, and its kernel with it; restart the kernel to start both again"
            )
        self._lost = self._asked_to_restart = self._ending = False
        manager = self._manager
        public, secret = manager.curve_publickey, manager.curve_secretkey
        assert public is not None and secret is not None, "made by pre_launch"  # noqa: PT018
        keys = {
            "signature_scheme": manager.session.signature_scheme,
            "kernel_name": manager.kernel_name,
            "curve_publickey": public.decode(),
            "curve_secretkey": secret.decode(),
        }
        kept = {name: port for name in PORT_NAMES if (port := getattr(manager, name))}
        if not self._started_before and (found := await self._adopt(kwargs["env"])):
            return found
        connection = {"key": manager.session.key.decode(), **keys}
        cwd = Path(kwargs.get("cwd") or Path.cwd())
        self._kernel = await self._start(connection, env=kwargs["env"], cwd=cwd, kept=kept)
        self._started_before = True
        self._begin_watch(keys)
        if self._left_behind is not None:
            await asyncio.to_thread(self._left_behind.signal, 9)
            self._left_behind = None
        reached = {
            "transport": "tcp",
            "ip": "127.0.0.1",
            "key": manager.session.key,
            **self._kernel.ports,
            **keys,
        }
        self.connection_info = cast(KernelConnectionInfo, reached)
        return self.connection_info

    async def poll(self) -> int | None:
        """Return the exit code of the kernel, or None while it runs; 0 when there is none."""
        kernel = self._kernel
        if kernel is None:
            return 0
        holds = self._watch is not None and self._watch.connected and not kernel.asleep
        if holds and time.monotonic() - self._asked < TRUST:
            return None
        reason = kernel.reason
        self._asked = time.monotonic()
        code = await asyncio.to_thread(kernel.poll)
        if code is not None:
            await self._end_watch()
        if code is not None and not reason:
            self._lost = kernel.lost
            self.log.log(logging.INFO if self._ending else logging.WARNING, "mlvm: %s", kernel.reason)
        return code

    @property
    def reason(self) -> str:
        """Why the kernel ended, in words for a person; empty while it runs."""
        return self._kernel.reason if self._kernel is not None else ""

    def take_missed(self) -> registry.Kept | None:
        """Return what nobody heard of the kernel that was adopted (see `registry.take_missed`)."""
        assert self._kernel is not None, "there is no kernel"
        record = self._kernel.record
        return registry.take_missed(provider_for(record).guest(record), self._kernel.process.kernel_id)

    def runs(self) -> bool:
        """Tell whether the kernel runs, from any thread and without an event loop."""
        return self._kernel is not None and self._kernel.poll() is None

    async def wait(self) -> int | None:
        """Wait for the end of the kernel; afterwards there is none."""
        while (code := await self.poll()) is None:
            await asyncio.sleep(0.1)
        await self._forget()
        return code

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group in the guest."""
        if self._kernel is not None and signum != 0:
            await asyncio.to_thread(self._kernel.signal, int(signum))

    async def kill(self, restart: bool = False) -> None:
        """End the kernel at once."""
        self._ending = True
        await self.send_signal(9)

    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel to end."""
        self._ending = True
        await self.send_signal(15)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Note that a person wants this restart: only the restarter after a death does not ask the kernel first."""
        self._asked_to_restart = restart
        self._ending = True
        kernel = self._kernel
        if kernel is not None and await asyncio.to_thread(kernel.leave_behind):
            self._left_behind = kernel

    async def cleanup(self, restart: bool = False) -> None:
        """Take back the ports. The machine stays: it is no part of a kernel's life."""
        await self._forget()

    def obituary(self, request: str) -> tuple[str, Outcome]:
        """Say why the kernel ended, and what is known of a cell that was sent to it."""
        kernel = self._kernel
        return (kernel.reason, kernel.outcome(request)) if kernel is not None else ("", Outcome.UNKNOWN)

    def discard(self) -> None:
        """Kill the kernel without an event loop or a thread: there are none any more when an interpreter exits."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            kernel.discard()

    async def get_provisioner_info(self) -> dict[str, Any]:
        """Return what another process needs to go on with this kernel."""
        info: dict[str, Any] = await super().get_provisioner_info()
        info.update(project=self.project, machine=self.machine, process=None)
        if self._kernel is not None:
            process = self._kernel.process
            info["process"] = {
                "kernel_id": process.kernel_id,
                "pid": process.pid,
                "ports": dict(process.ports),
            }
            info["host_ports"] = dict(self._kernel.ports)
        return info

    async def load_provisioner_info(self, provisioner_info: dict[str, Any]) -> None:
        """Go on with a kernel that another process started."""
        await super().load_provisioner_info(provisioner_info)
        self.project, self.machine = provisioner_info["project"], provisioner_info["machine"]
        if provisioner_info["process"] is not None:
            process = GuestKernelProcess(**provisioner_info["process"])
            self._kernel = await asyncio.to_thread(
                launch.reopen, Home.find(), self.machine, process, ports=provisioner_info["host_ports"]
            )
            if self._kernel is not None:
                self._begin_watch(cast("Mapping[str, object]", provisioner_info["connection_info"]))

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """Return how long a kernel may take to end by itself."""
        return max(recommended, SHUTDOWN_WAIT)

    def get_stable_start_time(self, recommended: float = 10.0) -> float:
        """Return how long a kernel must live to count as started."""
        return max(recommended, STABLE_AFTER)

    async def _start(
        self, connection: Mapping[str, object], *, env: Mapping[str, str], cwd: Path, kept: Mapping[str, int]
    ) -> launch.LiveKernel:
        place = launch.Place(project=Path(self.project), machine=self.machine, home=Home.find(), cwd=cwd)
        observer = LogObserver(self.log)

        def start() -> launch.LiveKernel:
            # A restart is to give a new kernel, and none that waits in a fork with its variables.
            claim = launch.NEW if self._started_before else ""
            return launch.start(place, connection, env=env, host_ports=kept, claim=claim, observer=observer)

        try:
            return await _explained(_unless_abandoned(start), lambda: observer.explain(place.up_command))
        except MlvmError as error:
            # Jupyter shows the text of an error and nothing else.
            raise KernelError(launch.in_full(error)) from error

    async def _adopt(self, env: Mapping[str, str]) -> KernelConnectionInfo | None:
        """Go on with the kernel we are for, or with one that was started for the same notebook and left alive."""
        place = launch.Place(project=Path(self.project), machine=self.machine, home=Home.find())
        session = env.get("JPY_SESSION_NAME", "")
        adopted: registry.Adopted | None
        try:
            if self.adopt:
                adopted = await asyncio.to_thread(registry.adopt_named, place.home, self.adopt)
            else:
                adopted = await asyncio.to_thread(
                    registry.adopt_orphan, place, session=session, kernel_name=self._manager.kernel_name
                )
        except MlvmError as error:
            raise KernelError(launch.in_full(error)) from error
        if adopted is None:
            return None
        self._kernel, self._started_before, self.adopted = adopted.kernel, True, True
        self.log.info("mlvm: `%s` goes on with its kernel in machine `%s`", session, self.machine)
        self._begin_watch(adopted.connection)
        reached = {**adopted.connection, "key": str(adopted.connection["key"]).encode()}
        self.connection_info = cast(KernelConnectionInfo, reached)
        return self.connection_info

    def _begin_watch(self, keys: Mapping[str, object]) -> None:
        """Have a loss known at once; what it means, the next `poll` asks."""
        assert self._kernel is not None
        self._watch = Watch(self._kernel.ports["hb_port"], keys, lost=lambda: None)

    async def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await asyncio.to_thread(watch.close)

    async def _forget(self) -> None:
        await self._end_watch()
        kernel, self._kernel = self._kernel, None
        if kernel is not None:
            await asyncio.to_thread(kernel.close)


class LogObserver(Observer):
    """Tells a log what a start is doing, and on demand what it is waiting for."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._stage = ""
        self._began = time.monotonic()

    def stage_started(self, stage: str, detail: str = "") -> None:
        """Remember what is waited for."""
        self._stage = stage
        self._log.debug("mlvm: %s %s", stage, detail)

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        """Tell how long it took."""
        self._log.info("mlvm: %s took %.1f s %s", stage, seconds, detail)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._log.info("mlvm: %s", text)

    def explain(self, up_command: str) -> None:
        """Say why nothing has answered yet."""
        self._log.warning(
            "mlvm: the machine has been starting for %.0f s and is at stage `%s`. Frontends may give up after 60 s, "
            "the start goes on meanwhile. A machine that runs already gives a kernel in seconds: `%s`",
            time.monotonic() - self._began,
            self._stage or "lock",
            up_command,
        )


async def _explained(work: Awaitable[T], explain: Callable[[], None]) -> T:
    """Await `work`; call `explain` once if it takes long."""
    timer = asyncio.get_running_loop().call_later(EXPLAIN_AFTER, explain)
    try:
        return await work
    finally:
        timer.cancel()


async def _unless_abandoned(start: Callable[[], launch.LiveKernel]) -> launch.LiveKernel:
    """Run `start` in a thread. When the frontend gives up meanwhile, the kernel that comes of it is discarded."""
    guard = threading.Lock()
    abandoned = False
    made: list[launch.LiveKernel] = []

    def run() -> launch.LiveKernel:
        kernel = start()
        with guard:
            made.append(kernel)
            if abandoned:
                kernel.discard()
        return kernel

    try:
        return await asyncio.to_thread(run)
    except asyncio.CancelledError:
        with guard:
            abandoned = True
            for kernel in made:
                threading.Thread(target=kernel.discard, name="mlvm-discard").start()
        raise
