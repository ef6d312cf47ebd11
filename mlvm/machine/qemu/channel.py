"""The host's end of the control channel: the agent of a running machine as a `Guest`.

Eight ports, each for one client at a time: a call takes the file lock of a free one, connects, says hello
with a nonce, and throws away everything before the greeting that carries it. So whatever a killed client left
behind on the port harms nobody. Every answer has a deadline, and a long stream has a heartbeat: a silent
program may run for days, a silent agent is an error within a minute.
"""

from __future__ import annotations

import binascii
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from mlvm import files
from mlvm.errors import GuestError
from mlvm.machine.guest import Finished, GuestKernelProcess
from mlvm.machine.qemu.stream import BytesInput, Streams, run_streams

PORTS = 8
CHUNK = 48 * 1024

#: Seconds within which a healthy agent answers, on a busy host under emulation.
ANSWER = 30.0
#: Seconds within which it begins what has to wait until a boot has settled; it waits a minute for that at most.
SETTLED = 120.0
FREE_PORT = 30.0

Message = dict[str, Any]


class Session:
    """One conversation with the agent, after its greeting."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = bytearray()
        self.greeting: Message = {}

    def fileno(self) -> int:
        """Let select wait for us."""
        return self.connection.fileno()

    def hello(self) -> str:
        """Announce ourselves and return the nonce the greeting must carry."""
        nonce = secrets.token_hex(8)
        self._send_bytes(b"\n" + _line({"op": "hello", "nonce": nonce}), seconds=ANSWER)
        return nonce

    def take_greeting(self, nonce: str) -> bool:
        """Look for our greeting in what has arrived; everything else belongs to somebody before us."""
        while (message := self._next()) is not None:
            if message.get("hello") == nonce:
                self.greeting = message
                return True
        return False

    def greet(self, seconds: float) -> None:
        """Say hello and wait for the answer to it."""
        nonce = self.hello()
        deadline = time.monotonic() + seconds
        while not self.take_greeting(nonce):
            self.fill(deadline - time.monotonic())

    def ask(self, op: str, *, seconds: float = ANSWER, **fields: object) -> Any:
        """Send a request and return the answer's content. Raises GuestError with the agent's reason."""
        self.send({"op": op, **fields})
        return self.answer(seconds)

    def answer(self, seconds: float = ANSWER) -> Any:
        """Return the content of the next answer."""
        return content(self.receive(seconds))

    def send(self, message: Message) -> None:
        """Send one message."""
        self._send_bytes(_line(message), seconds=2 * ANSWER)

    def receive(self, seconds: float) -> Message:
        """Return the next message, within `seconds`."""
        deadline = time.monotonic() + seconds
        while (message := self._next()) is None:
            self.fill(deadline - time.monotonic())
        return message

    def take(self) -> Message | None:
        """Return a message that has arrived whole, if there is one."""
        return self._next()

    def fill(self, seconds: float) -> None:
        """Wait for bytes. Raises GuestError after `seconds` or when the machine is gone."""
        try:
            self.connection.settimeout(max(seconds, 0.001))
            data = self.connection.recv(256 * 1024)
        except TimeoutError:
            raise GuestError("the guest does not answer", hint="`mlvm console` shows what it says") from None
        except OSError as gone:
            raise _gone() from gone
        if not data:
            raise _gone()
        self._buffer += data

    def _next(self) -> Message | None:
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                return message
        return None

    def _send_bytes(self, data: bytes, *, seconds: float) -> None:
        try:
            self.connection.settimeout(seconds)
            self.connection.sendall(data)
        except TimeoutError:
            raise GuestError(
                "the guest takes no more data", hint="`mlvm console` shows what it says"
            ) from None
        except OSError as gone:
            raise _gone() from gone


class Channel:
    """The ports of one machine: unix sockets `agent-N.sock` in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def connect(self, seconds: float = FREE_PORT) -> Iterator[Session]:
        """Yield a session that has not said hello yet, on a port that is ours during the block."""
        if not self.folder.is_dir():
            raise GuestError("the machine is not running", hint="`mlvm status` shows why")
        with ExitStack() as stack:
            deadline = time.monotonic() + seconds
            number = self._free_port(stack, deadline)
            connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.settimeout(seconds)
            try:
                _connect(connection, self.folder / f"agent-{number}.sock", deadline)
            except OSError as refused:
                raise GuestError(
                    "the machine is not running", details=str(refused), hint="mlvm up"
                ) from refused
            yield Session(connection)

    @contextmanager
    def session(self, seconds: float = ANSWER) -> Iterator[Session]:
        """Yield a session the agent has greeted."""
        with self.connect() as session:
            session.greet(seconds)
            yield session

    def _free_port(self, stack: ExitStack, deadline: float) -> int:
        while True:
            for number in range(PORTS):
                try:
                    stack.enter_context(files.hold(self.folder / f"agent-{number}.hold", wait=False))
                except BlockingIOError:
                    continue
                return number
            if time.monotonic() > deadline:
                raise GuestError(
                    f"all {PORTS} channels to the guest are in use",
                    hint="end one of the `mlvm run` or `mlvm kernel` that use this machine",
                )
            time.sleep(0.05)


class AgentGuest:
    """The inside of a machine through its agent (obeys `mlvm.machine.guest.Guest`).

    `env` is what every program and kernel gets; a call's own `env` goes on top of it.
    """

    def __init__(self, folder: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.channel = Channel(folder)
        self._env = dict(env or {})

    def ping(self, timeout: float = 5.0) -> dict[str, object]:
        """Return the agent's greeting: version, hostname, kernel release, uptime in seconds."""
        with self.channel.session(timeout) as session:
            return dict(session.greeting)

    def configure(self, **settings: Any) -> dict[str, object]:
        """Make the guest the machine it is: hostname, machine_id, ssh_host_key, authorized_key, time."""
        with self.channel.session() as session:
            answer: dict[str, object] = session.ask("configure", **settings)
            return answer

    def renew(self, **settings: Any) -> dict[str, object]:
        """Make a copy a machine of its own: fresh entropy, then whatever `configure` takes, and mac."""
        entropy = _encode(secrets.token_bytes(64))
        answer: dict[str, object] = self._ask("renew", seconds=2 * ANSWER, entropy=entropy, **settings)
        return answer

    def prepare_kernel(self, modules: Sequence[str]) -> int:
        """Import `modules` in the guest and have a kernel ready; return its process id when it waits."""
        with self._explained("cannot prepare a kernel in the guest"):
            answer = self._ask("kernel_prepare", seconds=900, modules=list(modules), env=self._env)
        return int(answer["pid"])

    def set_clock(self) -> float:
        """Set the guest's clock to ours; return by how many seconds it was wrong."""
        with self.channel.session() as session:
            return float(session.ask("clock", time=time.time()))

    def sync(self) -> None:
        """Write everything the guest has cached to its disk."""
        self._ask("sync", seconds=120)

    def power_off(self) -> None:
        """Begin an orderly shutdown."""
        self._ask("poweroff")

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
        """Run a program to its end and collect what it wrote. Raises GuestError after `timeout` seconds."""
        out, err = bytearray(), bytearray()
        streams = Streams(stdin=BytesInput(stdin), out=out.extend, err=err.extend)
        code = self._execute(self._request(command, env, cwd, user), streams, timeout=timeout)
        return Finished(code=code, stdout=bytes(out), stderr=bytes(err))

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
        """Run a program with its three streams connected to ours; return its exit code.

        With `tty` the program has a terminal of its own, as large as ours, and ours passes every key on.
        """
        request = {**self._request(command, env, cwd, user), "tty": tty}
        with Streams.of_files(stdin, stdout, stderr, tty=tty) as streams:
            return self._execute(request, streams, timeout=None)

    def put(self, path: str, content: bytes, *, mode: int = 0o644, owner: str | None = None) -> None:
        """Write a file in the guest, whole or not at all; it belongs to root unless `owner` is given."""
        with self._explained(f"cannot write `{path}` in the guest"), self.channel.session() as session:
            session.send({"op": "put", "path": path, "mode": mode, "owner": owner})
            for start in range(0, len(content), CHUNK):
                session.send({"data": _encode(content[start : start + CHUNK])})
            session.send({"end": True})
            session.answer(120)

    def get(self, path: str) -> bytes:
        """Read a file of the guest."""
        content_so_far = bytearray()
        with self._explained(f"cannot read `{path}` in the guest"), self.channel.session() as session:
            session.send({"op": "get", "path": path})
            while "data" in (message := session.receive(2 * ANSWER)):
                content_so_far += binascii.a2b_base64(message["data"])
            size = content(message)
        if size != len(content_so_far):
            raise GuestError(f"`{path}` arrived incomplete: {len(content_so_far)} of {size} bytes")
        return bytes(content_so_far)

    def start_kernel(
        self, connection: Mapping[str, object], *, env: Mapping[str, str], cwd: str | None
    ) -> GuestKernelProcess:
        """Start an ipykernel; its ports are chosen in the guest."""
        with self._explained("cannot start a kernel in the guest"):
            answer = self._ask(
                "kernel_start",
                seconds=SETTLED,
                connection=dict(connection),
                env={**self._env, **env},
                cwd=cwd,
            )
        return GuestKernelProcess(kernel_id=answer["kernel_id"], pid=answer["pid"], ports=answer["ports"])

    def poll_kernel(self, kernel_id: str) -> int | None:
        """Return the exit code of a kernel, or None while it runs."""
        code: int | None = self._ask("kernel_poll", kernel_id=kernel_id)
        return code

    def signal_kernel(self, kernel_id: str, signum: int) -> None:
        """Send a signal to the kernel's process group; nothing happens when it has ended."""
        self._ask("kernel_signal", kernel_id=kernel_id, signal=signum)

    def kernel_log(self, kernel_id: str) -> str:
        """Return the last lines the kernel process wrote to its own stdout and stderr."""
        return str(self._ask("kernel_log", kernel_id=kernel_id))

    def _ask(self, op: str, *, seconds: float = ANSWER, **fields: Any) -> Any:
        with self.channel.session() as session:
            return session.ask(op, seconds=seconds, **fields)

    def _request(
        self, command: Sequence[str], env: Mapping[str, str] | None, cwd: str | None, user: str | None
    ) -> Message:
        return {
            "op": "exec",
            "argv": list(command),
            "env": {**self._env, **(env or {})},
            "cwd": cwd,
            "user": user,
        }

    def _execute(self, request: Message, streams: Streams, *, timeout: float | None) -> int:
        words: Callable[[], str] = lambda: f"cannot run `{request['argv'][0]}` in the guest"  # noqa: E731
        with self.channel.session() as session:
            if streams.winsize is not None:
                request["winsize"] = streams.winsize()
            session.send(request)
            with self._explained(words() if request["argv"] else "cannot run nothing"):
                window = int(content(session.receive(SETTLED), key="window"))
            return run_streams(session, streams, window=window, timeout=timeout)

    @staticmethod
    @contextmanager
    def _explained(what: str) -> Iterator[None]:
        """Say what was being done in front of the agent's reason."""
        try:
            yield
        except GuestError as error:
            raise GuestError(f"{what}: {error.message}", details=error.details, hint=error.hint) from None


def content(message: Message, *, key: str = "ok") -> Any:
    """Return field `key` of an answer. Raises GuestError when the answer is an error."""
    if "error" in message:
        path = f" (`{message['path']}`)" if message.get("path") else ""
        raise GuestError(f"{message['error']}{path}")
    if key not in message:
        raise GuestError(f"the agent's answer makes no sense: {json.dumps(message)[:200]}")
    return message[key]


def _connect(connection: socket.socket, path: Path, deadline: float) -> None:
    """Connect, waiting while QEMU has not noticed yet that the last client is gone: its queue holds one."""
    while True:
        try:
            connection.connect(str(path))
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _gone() -> GuestError:
    return GuestError("the machine went away", hint="mlvm status shows why")


def _line(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
