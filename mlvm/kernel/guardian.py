"""A small process that ends a kernel for a launcher that was killed outright.

A kernel in a machine is nobody's child: a launcher that gets SIGKILL cannot take it along. Frontends that restart a
kernel that way would leave one behind each time. So the guardian, forked before there are threads, waits for the end
of a pipe; when the launcher is gone without a word and the frontend still lives, the frontend meant it. When both are
gone, nobody meant anything, and the kernel lives on.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from mlvm.kernel.launch import LiveKernel

RELEASED = "released"


class Guardian:
    """The launcher's end of the pipe."""

    def __init__(self, frontend: int) -> None:
        self._frontend = frontend
        self._pipe = -1

    def __enter__(self) -> Self:
        """Fork."""
        reading, self._pipe = os.pipe2(os.O_CLOEXEC)
        if os.fork() == 0:
            os.close(self._pipe)
            try:
                os.setsid()
                null = os.open(os.devnull, os.O_RDWR)
                for standard in (0, 1, 2):
                    os.dup2(null, standard)
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)
                self._wait(reading)
            finally:
                os._exit(0)
        os.close(reading)
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go; a kernel that is guarded and not released is ended."""
        os.close(self._pipe)

    def guard(self, kernel: LiveKernel) -> None:
        """Name the kernel to end."""
        self._write(f"{kernel.record.name} {kernel.process.kernel_id}")

    def release(self) -> None:
        """Say that there is nothing to end any more."""
        self._write(RELEASED)

    def _write(self, line: str) -> None:
        with suppress(OSError):
            os.write(self._pipe, f"{line}\n".encode())

    def _wait(self, reading: int) -> None:
        with os.fdopen(reading, "r") as pipe:
            lines = pipe.read().splitlines()
        if not lines or RELEASED in lines:
            return
        os.kill(self._frontend, 0)  # raises when it is gone
        from mlvm.machine.record import load  # noqa: PLC0415
        from mlvm.machine.table import provider_for  # noqa: PLC0415
        from mlvm.paths import Home  # noqa: PLC0415

        machine, _, kernel_id = lines[0].partition(" ")
        if record := load(Home.find(), machine):
            provider_for(record).guest(record).signal_kernel(kernel_id, signal.SIGKILL)
