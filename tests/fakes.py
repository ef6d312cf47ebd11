"""Fakes that obey the contracts of the doors they stand in for.

`LoopbackGuest` is a guest that is a folder of this host: what it starts are real processes, a kernel is a real
ipykernel, and `LoopbackProvider.forward` relays real ports. So everything between a frontend and a kernel process runs
as it does with a machine, except for the machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from mlvm.errors import GuestError, MachineError
from mlvm.events import Observer
from mlvm.kernel.ports import PORT_NAMES
from mlvm.machine import record as records
from mlvm.machine.guest import Finished, GuestKernelProcess
from mlvm.machine.provider import Condition, Limits, Snapshot, State
from mlvm.machine.qemu import usage as qemu_usage
from mlvm.machine.record import Record
from mlvm.machine.usage import Usage
from mlvm.paths import Home


class TapeObserver(Observer):
    """Remembers the stages it was told of, in order, and the notes."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def stage_started(self, stage: str, detail: str = "") -> None:
        self.stages.append(stage)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Tape(Observer):
    """Remembers the stages that ended, in order, and the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        self.stages.append(stage)


class LoopbackGuest:
    """A guest in folder `root`: its processes see nothing of this process's environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kernels: dict[str, subprocess.Popen[bytes]] = {}
        #: Raised by whatever is asked next, while it is set: a guest that does not answer.
        self.silent: GuestError | None = None
        #: Runs in place of ipykernel when set, to see a kernel that cannot start.
        self.kernel_command: list[str] = [sys.executable, "-m", "ipykernel_launcher"]
        #: What each kernel start said of kernels that wait.
        self.claims: list[str] = []
        (root / "home").mkdir(parents=True, exist_ok=True)

    def _answer(self) -> None:
        if self.silent is not None:
            raise self.silent

    def _env(self, env: Mapping[str, str] | None) -> dict[str, str]:
        home = str(self.root / "home")
        return {"PATH": os.environ["PATH"], "HOME": home, "IPYTHONDIR": home + "/.ipython", **(env or {})}

    def _path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def ping(self, timeout: float = 5.0) -> dict[str, object]:
        self._answer()
        return {"hostname": "loopback"}

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> Finished:
        self._answer()
        done = subprocess.run(
            command,
            input=stdin,
            env=self._env(env),
            cwd=self._path(cwd or "home"),
            capture_output=True,
            check=False,
        )
        return Finished(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def stream(
        self,
        command: Sequence[str],
        *,
        stdin: IO[bytes] | None,
        stdout: IO[bytes],
        stderr: IO[bytes],
        tty: bool = False,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> int:
        self._answer()
        where = self._path(cwd or "home")
        return subprocess.run(
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=self._env(env), cwd=where, check=False
        ).returncode

    def put(self, path: str, content: bytes, *, mode: int = 0o644, owner: str | None = None) -> None:
        self._answer()
        where = self._path(path)
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(content)
        where.chmod(mode)

    def get(self, path: str) -> bytes:
        self._answer()
        try:
            return self._path(path).read_bytes()
        except OSError as error:
            raise GuestError(f"`{path}` cannot be read: {error.strerror}") from error

    def start_kernel(
        self, connection: Mapping[str, object], *, env: Mapping[str, str], cwd: str | None, claim: str = ""
    ) -> GuestKernelProcess:
        self._answer()
        self.claims.append(claim)
        kernel_id = secrets.token_hex(8)
        ports = free_ports()
        connection_file = self.root / f"kernel-{kernel_id}.json"
        content = {**connection, **ports, "ip": "127.0.0.1", "transport": "tcp"}
        connection_file.touch(mode=0o600)
        connection_file.write_text(json.dumps(content))
        with (self.root / f"kernel-{kernel_id}.log").open("wb") as log:
            child = subprocess.Popen(
                [*self.kernel_command, "-f", str(connection_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env(env),
                cwd=self._path(cwd or "home"),
                start_new_session=True,
            )
        self.kernels[kernel_id] = child
        return GuestKernelProcess(kernel_id=kernel_id, pid=child.pid, ports=ports)

    def _kernel(self, kernel_id: str) -> subprocess.Popen[bytes]:
        self._answer()
        if kernel_id not in self.kernels:
            raise GuestError(f"there is no kernel `{kernel_id}`")
        return self.kernels[kernel_id]

    def poll_kernel(self, kernel_id: str, *, wait: float = 0.0) -> int | None:
        return self._kernel(kernel_id).poll()

    def list_kernels(self) -> list[dict[str, object]]:
        self._answer()
        return []

    def signal_kernel(self, kernel_id: str, signum: int) -> None:
        child = self._kernel(kernel_id)
        if child.poll() is None:
            os.killpg(child.pid, signum)

    def kernel_log(self, kernel_id: str) -> str:
        self._kernel(kernel_id)
        return (self.root / f"kernel-{kernel_id}.log").read_text(errors="replace")

    def close(self) -> None:
        """Kill what still runs."""
        for child in self.kernels.values():
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        self.kernels.clear()


class LoopbackProvider:
    """Runs "machines" that are folders: one guest a machine, a relay a forwarded port."""

    name = "loopback"
    shares_folders = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.guests: dict[str, LoopbackGuest] = {}
        self.states: dict[str, State] = {}
        self.taken: list[tuple[str, str]] = []
        self.relays = Relays()

    def state(self, record: Record) -> Condition:
        return Condition(state=self.states.get(record.name, State.STOPPED))

    def usage(self, record: Record, *, ask: bool) -> Usage | None:
        """Tell what this very process uses, as if it were the machine; a stopped one uses a little room only."""
        if self.states.get(record.name) is not State.RUNNING:
            return Usage(taken=time.monotonic(), disk=4096)
        books = qemu_usage.cpu_time(os.getpid()) | qemu_usage.memory(os.getpid())
        return Usage(taken=time.monotonic(), disk=4096, **books)

    def start(self, record: Record, image: object, *, observer: Observer) -> LoopbackGuest:
        if record.name not in self.guests:
            self.guests[record.name] = LoopbackGuest(self.folder / record.name)
        self.states[record.name] = State.RUNNING
        self.guests[record.name].silent = None
        return self.guests[record.name]

    def guest(self, record: Record) -> LoopbackGuest:
        if self.state(record).state is not State.RUNNING:
            raise MachineError(f"machine `{record.name}` is not running")
        return self.guests[record.name]

    def stop(self, record: Record, *, observer: Observer) -> None:
        if record.name in self.guests:
            self.guests[record.name].close()
            self.guests[record.name].silent = GuestError("the agent does not answer")
        self.states[record.name] = State.STOPPED

    def suspend(self, record: Record, *, observer: Observer) -> None:
        self.guests[record.name].silent = GuestError("the agent does not answer")
        self.states[record.name] = State.SUSPENDED
        self.relays.stop_all()

    def limit(self, record: Record, wanted: Limits, *, observer: Observer) -> None:
        raise MachineError("a loopback machine has no limits")

    def snapshot(self, record: Record, name: str, *, observer: Observer) -> None:
        self.taken.append((record.name, name))

    def snapshots(self, record: Record) -> list[Snapshot]:
        now = datetime.now(UTC)
        return [
            Snapshot(name=name, made=now, size=0) for machine, name in self.taken if machine == record.name
        ]

    def fork(
        self, record: Record, image: object, copies: Sequence[Record], *, observer: Observer
    ) -> list[LoopbackGuest]:
        for copy in copies:
            copy.folder.mkdir(parents=True)
            records.save(copy)
        return [self.start(copy, image, observer=observer) for copy in copies]

    def destroy(self, record: Record, *, observer: Observer) -> None:
        self.stop(record, observer=observer)
        shutil.rmtree(record.folder, ignore_errors=True)
        self.states[record.name] = State.ABSENT

    def forward(
        self, record: Record, guest_ports: Mapping[str, int], *, host_ports: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        wanted = host_ports or {}
        return {name: self.relays.start(port, at=wanted.get(name, 0)) for name, port in guest_ports.items()}

    def unforward(self, record: Record, host_ports: Mapping[str, int]) -> None:
        for port in host_ports.values():
            self.relays.stop(port)

    def ssh_command(self, record: Record) -> list[str]:
        return ["false"]

    def close(self) -> None:
        """End everything."""
        self.relays.close()
        for guest in self.guests.values():
            guest.close()


class Relays:
    """TCP ports on 127.0.0.1 that lead to others, as QEMU's user network does it: it accepts, then connects."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.servers: dict[int, tuple[asyncio.Server, set[asyncio.Task[None]]]] = {}
        #: Both ends of every connection there was.
        self.ends: list[asyncio.StreamWriter] = []

    def start(self, target: int, *, at: int = 0) -> int:
        return asyncio.run_coroutine_threadsafe(self._start(target, at), self.loop).result(10)

    def stop(self, port: int) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(port), self.loop).result(10)

    def stop_all(self) -> None:
        for port in list(self.servers):
            self.stop(port)

    def close(self) -> None:
        self.stop_all()
        asyncio.run_coroutine_threadsafe(self._finish(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    async def _start(self, target: int, at: int) -> int:
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.ends.append(writer)
            task = self.loop.create_task(self._carry(reader, writer, target))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accepted, "127.0.0.1", at)
        port: int = server.sockets[0].getsockname()[1]
        self.servers[port] = (server, tasks)
        return port

    async def _stop(self, port: int) -> None:
        server, tasks = self.servers.pop(port, (None, set()))
        if server is not None:
            server.close()
            doomed = list(tasks)
            for task in doomed:
                task.cancel()
            await asyncio.gather(*doomed, return_exceptions=True)
            await asyncio.sleep(0.01)  # what is closed is gone after the loop's next turn

    async def _finish(self) -> None:
        """End what is left, read or not."""
        doomed = asyncio.all_tasks() - {asyncio.current_task()}
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)
        for end in self.ends:
            end.transport.abort()
        await asyncio.sleep(0.01)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(262144):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", target)
        except (OSError, asyncio.CancelledError):
            writer.close()
            return
        self.ends.append(there_writer)
        try:
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
        except asyncio.CancelledError:
            writer.close()
            there_writer.close()


#: Below the ports that Linux hands out by itself. A kernel binds its ports long after they were chosen; until then a
#: relay's own port, or its end of a connection, must not be one of them, or the relay would talk to itself.
KERNEL_PORTS = range(16384, 32768)


def free_ports() -> dict[str, int]:
    """Return a free port of 127.0.0.1 for each channel of a kernel."""
    held: list[socket.socket] = []
    try:
        for port in random.sample(KERNEL_PORTS, len(KERNEL_PORTS)):
            if len(held) == len(PORT_NAMES):
                break
            one = socket.socket()
            held.append(one)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                held.pop().close()
        return {name: one.getsockname()[1] for name, one in zip(PORT_NAMES, held, strict=True)}
    finally:
        for one in held:
            one.close()


@contextmanager
def loopback(folder: Path) -> Iterator[LoopbackProvider]:
    """Yield a provider of loopback machines, and end everything it started."""
    provider = LoopbackProvider(folder)
    try:
        yield provider
    finally:
        provider.close()


def loopback_record(home: Home, name: str) -> Record:
    """Return the record of a machine that only a loopback provider knows."""
    return Record(name=name, provider="loopback", image_id="0" * 64, project="/nowhere", home=home)


def write_record(home: Home, name: str, project: Path) -> Record:
    """Write the record of a loopback machine of a project, as if it had been made."""
    record = Record(name=name, provider="loopback", image_id="0" * 64, project=str(project), home=home)
    record.folder.mkdir(parents=True)
    records.save(record)
    return record
