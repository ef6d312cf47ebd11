"""Plain ports of this host that lead to the encrypted ones of a kernel, for frontends that cannot encrypt.

Messages pass as they are: the kernel knows the frontend's own key, so nothing is signed anew, and libzmq's proxies
carry them without Python. What encryption would have kept from other users of this host is kept by a gate instead:
a connection is let in only when the process at its other end is this user's (or root's), which Linux tells. Behind the
gate are unix sockets in a private folder.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import zmq

from mlvm.errors import KernelError
from mlvm.kernel.ports import PORT_NAMES, key_bytes

LOOPBACK = "127.0.0.1"
CHUNK = 256 * 1024
#: What a channel's two ends are: the frontend's side, and the kernel's.
ENDS = {"iopub_port": (zmq.XPUB, zmq.XSUB)}


@asynccontextmanager
async def relay(
    front: Mapping[str, int], back: Mapping[str, int], keys: Mapping[str, object]
) -> AsyncIterator[None]:
    """Serve ports `front` of 127.0.0.1 during the block. Raises KernelError when one of them is taken."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mlvm-"))  # 0700
        context = zmq.Context()
        threads: list[threading.Thread] = []
        stack.callback(_end, context, threads)
        # The kernel answers on one channel what it was asked on another: it must know us by the same name.
        name = secrets.token_bytes(16)
        for channel in PORT_NAMES:
            inner = f"{folder}/{channel}"
            ends = _ends(context, channel, inner=inner, port=back[channel], name=name, keys=keys)
            threads.append(threading.Thread(target=_carry, args=ends, name=f"mlvm-{channel}", daemon=True))
            threads[-1].start()
            await stack.enter_async_context(_gate(front[channel], Path(inner)))
        yield


def owner(local: tuple[str, int], remote: tuple[str, int], table: str) -> int | None:
    """Return the user at the `remote` end of a connection, from the kernel's `table` of connections."""
    wanted = (_hexadecimal(remote), _hexadecimal(local))
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and (fields[1][-13:], fields[2][-13:]) == wanted:
            return int(fields[7])
    return None


def allowed(local: tuple[str, int], remote: tuple[str, int]) -> bool:
    """Tell whether whoever connects may: this user or root. Where no table tells (macOS), everybody may."""
    if sys.platform != "linux":
        return True
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            uid = owner(local, remote, Path(name).read_text())
            if uid is not None:
                return uid in {os.getuid(), 0}
    return False


def _hexadecimal(address: tuple[str, int]) -> str:
    octets = bytes(int(part) for part in address[0].split("."))
    return f"{octets[::-1].hex().upper()}:{address[1]:04X}"


def _ends(
    context: zmq.Context[zmq.Socket[bytes]],
    channel: str,
    *,
    inner: str,
    port: int,
    name: bytes,
    keys: Mapping[str, object],
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    kinds = ENDS.get(channel, (zmq.ROUTER, zmq.DEALER))
    front, back = (context.socket(kind) for kind in kinds)
    for end in (front, back):
        end.linger, end.sndhwm, end.rcvhwm = 1000, 0, 0
    if channel == "iopub_port":
        front.setsockopt(zmq.XPUB_VERBOSER, 1)
    elif channel != "hb_port":
        front.setsockopt(zmq.ROUTER_HANDOVER, 1)
        back.setsockopt(zmq.IDENTITY, name)
    back.curve_serverkey = back.curve_publickey = key_bytes(keys, "curve_publickey")
    back.curve_secretkey = key_bytes(keys, "curve_secretkey")
    front.bind(f"ipc://{inner}")
    back.connect(f"tcp://{LOOPBACK}:{port}")
    return front, back


def _carry(front: zmq.Socket[bytes], back: zmq.Socket[bytes]) -> None:
    with front, back, suppress(zmq.ContextTerminated):
        zmq.proxy(front, back)


def _end(context: zmq.Context[zmq.Socket[bytes]], threads: list[threading.Thread]) -> None:
    context.term()
    for thread in threads:
        thread.join(10)


@asynccontextmanager
async def _gate(port: int, inner: Path) -> AsyncIterator[None]:
    """Let the right user's connections to `port` through to the unix socket `inner`."""
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        local, remote = writer.get_extra_info("sockname"), writer.get_extra_info("peername")
        if remote is None or not allowed(local, remote):
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            there = await asyncio.open_unix_connection(str(inner))
            await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            connections.discard(task)

    try:
        server = await asyncio.start_server(accept, LOOPBACK, port)
    except OSError as taken:
        raise KernelError(
            f"port {port}, which the connection file names, cannot be served: {taken.strerror or taken}",
            hint="start the kernel again: the frontend chooses other ports",
        ) from taken
    try:
        yield
    finally:
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    close: Callable[[], None] = writer.close
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        close()
