"""The only way into a running machine, whatever runs it.

A provider hands out an object that obeys `Guest`; everything above (kernels, `mlvm run`, tests) knows nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A program that ended in the guest; a negative code is the number of the signal that killed it."""

    code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestKernelProcess:
    """A Jupyter kernel process in the guest: its id there, and its five ports *inside* the guest.

    `serves` when it has said itself that it listens on them, as one does that was ready beforehand.
    """

    kernel_id: str
    pid: int
    ports: Mapping[str, int]
    serves: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingKernel:
    """A kernel that a fork brought along: its id and its notebook's name in the machine it was forked from."""

    kernel_id: str
    notebook: str


class Guest(Protocol):
    """The inside of a running machine. Every method may raise GuestError; none hangs for ever."""

    def ping(self, timeout: float = 5.0) -> dict[str, object]:
        """Return the agent's greeting: version, hostname, kernel release, uptime in seconds."""

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
        """Run a program to its end. `user` defaults to the machine's ordinary user."""

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
        """Run a program with its three streams connected to ours while it runs; return its exit code."""

    def put(self, path: str, content: bytes, *, mode: int = 0o644, owner: str | None = None) -> None:
        """Write a file in the guest, whole or not at all."""

    def get(self, path: str) -> bytes:
        """Read a file of the guest."""

    def start_kernel(
        self, connection: Mapping[str, object], *, env: Mapping[str, str], cwd: str | None, claim: str = ""
    ) -> GuestKernelProcess:
        """Start an ipykernel that serves `connection` (a connection file's content; ports are chosen inside).

        Where kernels of a forked machine wait with their variables it is one of those: the one that `claim` names, or
        the likeliest; `new` wants none of them.
        """

    def waiting_kernels(self) -> list[WaitingKernel]:
        """Return the kernels that a fork brought along and that nobody has claimed yet, the one used last first."""

    def poll_kernel(self, kernel_id: str, *, wait: float = 0.0) -> int | None:
        """Return the exit code of a kernel, or None while it runs; wait so many seconds for its end."""

    def list_kernels(self) -> list[dict[str, Any]]:
        """Say of every kernel of the guest what it does; ended ones too, while their output is kept."""

    def adopt_kernel(self, kernel_id: str, *, deliver: str) -> dict[str, Any]:
        """Take over a kernel whose client is gone; return what `list_kernels` says of it, and `connection`.

        What nobody heard is shown by the next cell (`deliver` is "cell"), or read from its tapes ("live").
        """

    def hold_kernels(self, *, release: bool = False) -> None:
        """Let kernels keep what they say, because connections are about to end; or undo that."""

    def signal_kernel(self, kernel_id: str, signum: int) -> None:
        """Send a signal to the kernel's process group; nothing happens when it has ended."""

    def kernel_log(self, kernel_id: str) -> str:
        """Return the last lines the kernel process wrote to its own stdout and stderr."""
