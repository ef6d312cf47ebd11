"""Which ports a kernel listens on.

They are chosen some time before the kernel binds them. So none is of those that the guest's Linux hands out to whoever
wants any: a socket that happened to get one meanwhile, if only as its own end of a connection, would keep the kernel
out; its heartbeat, which is a thread, would then never answer, and nothing else would tell. Nor is one of them promised
to another kernel.
"""

# `pathlib` and `random` cost a tenth of a second of every boot under emulation.
# ruff: noqa: PTH123

from __future__ import annotations

import os
import socket
from collections.abc import Container
from contextlib import suppress

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
#: Where Linux says which ports it hands out, and the first of them where it does not say.
HANDED_OUT, FIRST_HANDED_OUT = "/proc/sys/net/ipv4/ip_local_port_range", 32768
#: How many ports below those are chosen from; below the second number services live.
CHOICE, FIRST = 16384, 2048


def free_ports(ip: str, taken: Container[int] = ()) -> dict[str, int]:
    """Return a port for each channel: nobody listens there now, all are different, and none is of `taken`."""
    candidates = _candidates()
    start = int.from_bytes(os.urandom(4), "little") % len(candidates)
    held: list[socket.socket] = []
    try:
        for at in range(len(candidates)):
            port = candidates[(start + at) % len(candidates)]
            if port in taken:
                continue
            held.append(socket.socket())
            try:
                held[-1].bind((ip, port))
            except OSError:
                held.pop().close()
            if len(held) == len(PORTS):
                return {name: one.getsockname()[1] for name, one in zip(PORTS, held)}  # noqa: B905 - 3.9
        raise OSError("there are no ports left for a kernel")
    finally:
        for one in held:
            one.close()


def _candidates() -> range:
    end = FIRST_HANDED_OUT
    with suppress(OSError, ValueError, IndexError), open(HANDED_OUT) as told:
        end = int(told.read().split()[0])
    if end - FIRST < CHOICE // 2:  # somebody lets Linux hand out nearly all
        return range(FIRST, 65536)
    return range(max(FIRST, end - CHOICE), end)
