"""What a kernelspec of ours runs where Jupyter's provisioners are ignored (VS Code, Spyder, PyCharm).

Such frontends start `argv` of a kernelspec, know the process they started, and speak to the ports they wrote into a
connection file. So this process stands for the kernel: it starts one in the machine under the very key of that file,
leads the file's ports to it, passes signals on, and ends as the kernel ends, the reason on stderr. With CurveZMQ keys
in the file QEMU forwards those ports and nothing stands between; without, `relay` does.

A frontend that ends us wants the kernel ended. One that has died does not: its kernel lives on (`mlvm kernel list`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import zmq

from mlvm.errors import KernelError, MlvmError
from mlvm.kernel import launch
from mlvm.kernel.guardian import Guardian
from mlvm.kernel.ports import PORT_NAMES
from mlvm.kernel.relay import relay
from mlvm.kernel.watch import Watch
from mlvm.paths import Home

#: What a frontend may tell the kernel through its environment. Everything else of the host stays on the host.
PASSED_ON = ("JPY_SESSION_NAME",)
#: Seconds a kernel has to end when it is asked to, and between two looks at kernel and frontend.
ENDING, LOOK_EVERY = 8.0, 2.0


def main(arguments: Sequence[str]) -> int:
    """Be a kernel until it ends; return its exit code."""
    parser = argparse.ArgumentParser(prog="mlvm-kernel", description=__doc__.partition("\n")[0])
    parser.add_argument("--project", required=True, type=Path)
    parser.add_argument("--machine", required=True)
    parser.add_argument("connection_file", type=Path)
    options = parser.parse_args(arguments)
    frontend = os.getppid()
    try:
        wanted = read_connection(options.connection_file)
        place = launch.Place(
            project=options.project, machine=options.machine, home=Home.find(), cwd=Path.cwd()
        )
        with Guardian(frontend) as guardian:
            return asyncio.run(_Standalone(place, wanted, frontend, guardian).run())
    except MlvmError as error:
        _say(launch.in_full(error))
        return error.exit_code


def read_connection(path: Path) -> dict[str, Any]:
    """Return what a connection file says. Raises KernelError when a kernel in a machine cannot serve it."""
    try:
        connection = json.loads(path.read_text())
        ports = {name: int(connection[name]) for name in PORT_NAMES}
        key = str(connection["key"])
    except (OSError, ValueError, KeyError, TypeError) as broken:
        raise KernelError(
            f"`{path}` is no connection file that can be served: {broken!r}",
            hint="it is written by whatever starts the kernel, and names five ports and a key",
        ) from None
    if connection.get("transport", "tcp") != "tcp" or connection.get("ip") not in {"127.0.0.1", "localhost"}:
        raise KernelError(
            f"`{path}` asks for {connection.get('transport')}://{connection.get('ip')}; a kernel in a machine is "
            "reached by tcp on 127.0.0.1 and nowhere else",
            hint="set the frontend's kernel address to 127.0.0.1",
        )
    if not key:
        raise KernelError(
            f"`{path}` holds no key, so anybody could run code in the kernel",
            hint="give the frontend's `Session.key` a value",
        )
    return {**connection, **ports, "key": key}


class _Standalone:
    """One kernel's life under one frontend."""

    def __init__(
        self, place: launch.Place, wanted: Mapping[str, Any], frontend: int, guardian: Guardian
    ) -> None:
        self._place = place
        self._ports = {name: int(wanted[name]) for name in PORT_NAMES}
        self._encrypted = bool(wanted.get("curve_secretkey"))
        self._frontend = frontend
        self._guardian = guardian
        names = ("key", "signature_scheme", "kernel_name", "curve_publickey", "curve_secretkey")
        self._connection = {name: wanted[name] for name in names if wanted.get(name)}
        if not self._encrypted:
            public, secret = zmq.curve_keypair()
            self._connection |= {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}
        self._look = asyncio.Event()
        self._ending = 0.0
        self._passed: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Start the kernel and stay until it, or the frontend, is gone."""
        loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(asyncio.to_thread(self._start))
        loop.add_signal_handler(signal.SIGTERM, starting.cancel)
        try:
            kernel = await starting
        except asyncio.CancelledError:
            return 128 + signal.SIGTERM
        self._guardian.guard(kernel)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(asyncio.to_thread, kernel.close)
            if not self._encrypted:
                await stack.enter_async_context(relay(self._ports, kernel.ports, self._connection))
            watch = Watch(
                kernel.ports["hb_port"],
                self._connection,
                lost=lambda: loop.call_soon_threadsafe(self._look.set),
            )
            stack.push_async_callback(asyncio.to_thread, watch.close)
            for number in (signal.SIGTERM, signal.SIGHUP):
                loop.add_signal_handler(number, self._end, kernel)
            for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
                loop.add_signal_handler(number, self._pass_on, kernel, number)
            code = await self._stay(kernel, loop)
            self._guardian.release()
        return code

    def _start(self) -> launch.LiveKernel:
        env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        ports = self._ports if self._encrypted else None
        return launch.start(self._place, self._connection, env=env, host_ports=ports)

    async def _stay(self, kernel: launch.LiveKernel, loop: asyncio.AbstractEventLoop) -> int:
        while True:
            code = await asyncio.to_thread(kernel.poll)
            if code is not None:
                if code != 0 and not self._ending:
                    _say(kernel.reason)
                return code if code >= 0 else 128 - code
            if os.getppid() != self._frontend and not self._ending:
                _say(f"its frontend is gone; the kernel in machine `{self._place.machine}` lives on")
                return 0
            if self._ending and loop.time() > self._ending:
                await asyncio.to_thread(kernel.signal, signal.SIGKILL)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), 0.3 if self._ending else LOOK_EVERY)
            self._look.clear()

    def _end(self, kernel: launch.LiveKernel) -> None:
        self._ending = self._ending or asyncio.get_running_loop().time() + ENDING
        self._pass_on(kernel, signal.SIGTERM)
        self._look.set()

    def _pass_on(self, kernel: launch.LiveKernel, number: signal.Signals) -> None:
        task = asyncio.ensure_future(asyncio.to_thread(kernel.signal, number))
        self._passed.add(task)
        task.add_done_callback(self._passed.discard)


def _say(text: str) -> None:
    sys.stderr.write("".join(f"mlvm: {line}\n" for line in text.splitlines()))
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
