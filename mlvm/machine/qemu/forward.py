"""Guest ports on 127.0.0.1, added and removed while the machine runs.

QEMU's user network does the forwarding. A free host port is not looked for and then asked for (somebody else
may take it in between): port 0 lets the kernel choose when QEMU binds, and `info usernet` says which one it
became.
"""

from __future__ import annotations

import re
from contextlib import suppress

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
    before = rules(monitor)
    if before.get(host_port) == guest_port:
        return host_port
    said = monitor.human(f"hostfwd_add net tcp:{LOOPBACK}:{host_port:d}-:{guest_port:d}").strip()
    after = rules(monitor)
    added = [port for port, target in after.items() if port not in before and target == guest_port]
    if said or not added:
        raise MachineError(
            f"port {host_port} of {LOOPBACK} cannot be forwarded to the guest's port {guest_port}",
            details=said or "it is taken",
            hint=f"see who has it with `ss -ltnp 'sport = :{host_port}'`, or change `ports` in mlvm.yaml",
        )
    return added[0]


def add_like(monitor: Monitor, guest_port: int, *, wanted: int) -> int:
    """Forward a guest port from the host port it had before, or from another when that is taken meanwhile."""
    if wanted:
        with suppress(MachineError):
            return add(monitor, guest_port, wanted)
    return add(monitor, guest_port)


def remove(monitor: Monitor, host_port: int) -> None:
    """Stop forwarding a host port; one that is not forwarded is no error."""
    monitor.human(f"hostfwd_remove net tcp:{LOOPBACK}:{host_port:d}")
