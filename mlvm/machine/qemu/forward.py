"""Guest ports on 127.0.0.1, added and removed while the machine runs.

QEMU's user network does the forwarding. A free host port is not looked for and then asked for (somebody else
may take it in between): port 0 lets the kernel choose when QEMU binds, and `info usernet` says which one it
became.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

from mlvm.errors import MachineError
from mlvm.machine.qemu.qmp import Monitor

LOOPBACK = "127.0.0.1"
_RULE = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)")


def rules(monitor: Monitor) -> dict[int, int]:
    """Return host port -> guest port of everything forwarded now."""
    return parse_rules(monitor.human("info usernet"))


def parse_rules(text: str) -> dict[int, int]:
    """Return host port -> guest port of the forwards in the text of `info usernet`."""
    return {int(host): int(guest) for host, guest in _RULE.findall(text)}


def add(monitor: Monitor, guest_port: int, host_port: int = 0) -> int:
    """Forward a guest port and return the host port; 0 asks for any free one. MachineError when taken."""
    return add_all(monitor, {"": guest_port}, {"": host_port})[""]


def add_all(
    monitor: Monitor, guest_ports: Mapping[str, int], wanted: Mapping[str, int] = MappingProxyType({})
) -> dict[str, int]:
    """Forward guest ports, each from the host port that is `wanted` for it, or any; return name -> host port."""
    before = rules(monitor)
    for name, guest_port in guest_ports.items():
        host_port = wanted.get(name, 0)
        if before.get(host_port) == guest_port:
            continue
        said = monitor.human(f"hostfwd_add net tcp:{LOOPBACK}:{host_port:d}-:{guest_port:d}").strip()
        if said:
            raise _taken(guest_port, host_port, said)
    after = rules(monitor)
    return {name: _found(before, after, port, wanted.get(name, 0)) for name, port in guest_ports.items()}


def _found(before: Mapping[int, int], after: Mapping[int, int], guest_port: int, wanted: int) -> int:
    """Return the host port that leads to a guest port now."""
    leading = [host for host, target in after.items() if target == guest_port]
    if wanted in leading:
        return wanted
    new = [host for host in leading if host not in before]
    if wanted or not new:
        raise _taken(guest_port, wanted, "it is taken")
    return new[0]


def _taken(guest_port: int, host_port: int, why: str) -> MachineError:
    return MachineError(
        f"port {host_port} of {LOOPBACK} cannot be forwarded to the guest's port {guest_port}",
        details=why,
        hint=f"see who has it with `ss -ltnp 'sport = :{host_port}'`, or change `ports` in mlvm.yaml",
    )


def add_like(monitor: Monitor, guest_port: int, *, wanted: int) -> int:
    """Forward a guest port from the host port it had before, or from another when that is taken meanwhile."""
    if wanted:
        with suppress(MachineError):
            return add(monitor, guest_port, wanted)
    return add(monitor, guest_port)


def remove(monitor: Monitor, host_port: int) -> None:
    """Stop forwarding a host port; one that is not forwarded is no error."""
    monitor.human(f"hostfwd_remove net tcp:{LOOPBACK}:{host_port:d}")
