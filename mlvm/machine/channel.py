"""The host's end of the control channel: the agent of a running machine as a `Guest`.

Eight ports, each for one client at a time: a call takes the file lock of a free one, connects and says hello (see
`session`). Every answer has a deadline, and a long stream has a heartbeat: a silent program may run for days, a silent
agent is an error within a minute.
"""

from __future__ import annotations

import binascii
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from mlvm import files
from mlvm.errors import GuestError
from mlvm.machine.guest import Finished, GuestKernelProcess, WaitingKernel
from mlvm.machine.session import ANSWER, Message, Session, content
from mlvm.machine.stream import BytesInput, Streams, run_streams

PORTS = 8
CHUNK = 48 * 1024

#: Seconds within which it begins what has to wait until a boot has settled; it waits a minute for that at most.
SETTLED = 120.0
FREE_PORT = 30.0


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
        answer: dict[str, object] = self._ask("configure", **settings)
        return answer

    def renew(self, **settings: Any) -> dict[str, object]:
        """Make a copy a machine of its own: fresh entropy, then whatever `configure` takes, mac, and shares."""
        with self.renewing(**settings) as answer:
            pass
        told: dict[str, object] = answer()
        return told

    def renewing(self, **settings: Any) -> AbstractContextManager[Callable[[], Any]]:
        """Renew during the block; at its end the guest is itself, and what it said can be asked for."""
        entropy = _encode(secrets.token_bytes(64))
        return self._asked({"op": "renew", "entropy": entropy, **settings}, 2 * ANSWER)

    def prepare_kernel(self, modules: Sequence[str]) -> int:
        """Import `modules` in the guest and have a kernel ready; return its process id when it waits."""
        with self._explained("cannot prepare a kernel in the guest"):
            answer = self._ask("kernel_prepare", seconds=900, modules=list(modules), env=self._env)
        return int(answer["pid"])

    def set_clock(self) -> float:
        """Set the guest's clock to ours; return by how many seconds it was wrong."""
        return float(self._ask("clock", time=time.time()))

    def share(self, shares: Sequence[Mapping[str, object]]) -> None:
        """Begin to mount these folders (number, at, write), and to unmount all others."""
        self._ask("share", shares=list(shares))

    def reset_shares(self) -> None:
        """End what is left of connections to a server of shared folders that is gone."""
        self._ask("share_reset")

    def share_status(self) -> dict[str, Any]:
        """Return which shared folders are mounted (place -> number), and why others are not."""
        answer: dict[str, Any] = self._ask("share_status", seconds=SETTLED)
        return answer

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
        with self._explained(f"cannot read `{path}` in the guest"), self.channel.session() as session:
            return _file(session, path, 2 * ANSWER)

    def read(self, *paths: str, seconds: float) -> list[bytes]:
        """Read several small files in one session, waiting at most `seconds` for each step of it."""
        with self.channel.connect(seconds) as session:
            session.greet(seconds)
            return [_file(session, path, seconds) for path in paths]

    def start_kernel(
        self, connection: Mapping[str, object], *, env: Mapping[str, str], cwd: str | None, claim: str = ""
    ) -> GuestKernelProcess:
        """Start an ipykernel, or claim one that a fork brought along; its ports are chosen in the guest."""
        with self._explained("cannot start a kernel in the guest"):
            answer = self._ask(
                "kernel_start",
                seconds=SETTLED,
                connection=dict(connection),
                env={**self._env, **env},
                cwd=cwd,
                claim=claim,
            )
        return GuestKernelProcess(
            kernel_id=answer["kernel_id"],
            pid=answer["pid"],
            ports=answer["ports"],
            serves=bool(answer.get("serves")),
        )

    def waiting_kernels(self) -> list[WaitingKernel]:
        """Return the kernels that a fork brought along and that nobody has claimed yet, the one used last first."""
        waiting = self._ask("kernel_waiting")
        return [WaitingKernel(kernel_id=one["kernel_id"], notebook=one["notebook"]) for one in waiting]

    def poll_kernel(self, kernel_id: str, *, wait: float = 0.0) -> int | None:
        """Return the exit code of a kernel, or None while it runs; wait so many seconds for its end."""
        code: int | None = self._ask("kernel_poll", seconds=ANSWER + wait, kernel_id=kernel_id, wait=wait)
        return code

    def list_kernels(self) -> list[Message]:
        """Say of every kernel of the guest what it does; ended ones too, while their output is kept."""
        told: list[Message] = self._ask("kernel_list")
        return told

    def adopt_kernel(self, kernel_id: str, *, deliver: str) -> Message:
        """Take over a kernel whose client is gone; return what is known of it, and `connection`."""
        told: Message = self._ask("kernel_adopt", kernel_id=kernel_id, deliver=deliver)
        return told

    def hold_kernels(self, *, release: bool = False) -> None:
        """Let kernels keep what they say, because connections are about to end; or undo that."""
        self._ask("kernel_hold", release=release)

    def signal_kernel(self, kernel_id: str, signum: int) -> None:
        """Send a signal to the kernel's process group; nothing happens when it has ended."""
        self._ask("kernel_signal", kernel_id=kernel_id, signal=signum)

    def kernel_log(self, kernel_id: str) -> str:
        """Return the last lines the kernel process wrote to its own stdout and stderr."""
        return str(self._ask("kernel_log", kernel_id=kernel_id))

    def _ask(self, op: str, *, seconds: float = ANSWER, **fields: Any) -> Any:
        with self._asked({"op": op, **fields}, seconds) as answer:
            pass
        return answer()

    @contextmanager
    def _asked(self, request: Message, seconds: float) -> Iterator[Callable[[], Any]]:
        """Have one request answered during the block; at its end the answer is there.

        Hello and request go together: a round trip is a hundredth of a second under emulation.
        """
        found: list[Any] = []
        with self.channel.connect() as session:
            nonce = session.hello()
            session.send(request)
            yield lambda: found[0]
            session.greeted(nonce, ANSWER)
            found.append(session.answer(seconds))

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


def _file(session: Session, path: str, seconds: float) -> bytes:
    """Receive a file, waiting at most `seconds` for each part of it."""
    data = bytearray()
    session.send({"op": "get", "path": path})
    while "data" in (message := session.receive(seconds)):
        data += binascii.a2b_base64(message["data"])
    if (size := content(message)) != len(data):
        raise GuestError(f"`{path}` arrived incomplete: {len(data)} of {size} bytes")
    return bytes(data)


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


def _encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
