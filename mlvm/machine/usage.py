"""What a machine uses of its host, found by looking.

Looking never fails and changes nothing: what cannot be found out is None. Two depths, because they cost very different
things. From outside there are the host's own books, in a millisecond. With `ask`, the guest and whatever runs it are
asked as well, which takes a fraction of a second and waits for nobody longer than `PATIENCE`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlvm.errors import MlvmError

if TYPE_CHECKING:
    from mlvm.machine.provider import Provider
    from mlvm.machine.record import Record

#: Seconds for which a guest that does not answer is waited for.
PATIENCE = 2.0
#: Files of a Linux guest that tell what it uses.
MEMINFO, NETWORK = "/proc/meminfo", "/proc/net/dev"


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What one machine uses. Amounts that nobody could tell, or that a stopped machine has not, are None.

    taken             when this was looked at: seconds of `time.monotonic()`; two looks make a rate
    cpu_seconds       CPU time of the host, in seconds since the machine's process started
    memory_private    RAM of the host that no other process shares, in bytes (RssAnon)
    memory_shared     RAM of the host in files that others may have mapped too, in bytes (RssFile + RssShmem)
    disk              room taken by the machine's folder on the host's disk, in bytes
    guest_memory      RAM that the guest has to itself just now, in bytes (MemTotal)
    guest_available   what of that its programs could still have, in bytes (MemAvailable)
    disk_read         bytes that the guest has read from its disks since its process started, layers included
    disk_written      bytes that it has written
    received, sent    bytes through the guest's network cards since the guest booted, loopback left out
    """

    taken: float
    cpu_seconds: float | None = None
    memory_private: int | None = None
    memory_shared: int | None = None
    disk: int | None = None
    guest_memory: int | None = None
    guest_available: int | None = None
    disk_read: int | None = None
    disk_written: int | None = None
    received: int | None = None
    sent: int | None = None


def usage(record: Record, provider: Provider, *, ask: bool = True) -> Usage | None:
    """Return what a machine uses, None when there is no such machine; with `ask`, ask the guest, too. Never raises."""
    try:
        return provider.usage(record, ask=ask)
    except (MlvmError, OSError, ValueError):
        return None


def guest_memory(meminfo: str) -> dict[str, int]:
    """Return the fields of a Usage that a guest's /proc/meminfo tells."""
    found = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB$", meminfo, re.MULTILINE)}
    names = {"guest_memory": "MemTotal", "guest_available": "MemAvailable"}
    return {field: found[name] for field, name in names.items() if name in found}


def guest_network(table: str) -> dict[str, int]:
    """Return the fields of a Usage that a guest's /proc/net/dev tells."""
    rows = re.findall(r"^ *([^\s:]+):((?: +\d+){16}) *$", table, re.MULTILINE)
    cards = [[int(number) for number in numbers.split()] for name, numbers in rows if name != "lo"]
    return (
        {"received": sum(card[0] for card in cards), "sent": sum(card[8] for card in cards)} if rows else {}
    )
