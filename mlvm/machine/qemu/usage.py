"""What a machine's QEMU process uses, and what QEMU and the guest know of it.

Everything but the process's own books costs a conversation: QEMU's monitor, which serves one client at a time, tells
of the disks; the guest's agent, in one session, of memory and network.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from mlvm import files
from mlvm.errors import MlvmError
from mlvm.machine.qemu import launching, qmp
from mlvm.machine.record import Record
from mlvm.machine.usage import MEMINFO, NETWORK, PATIENCE, Usage, guest_memory, guest_network

PROC = Path("/proc")


def look(record: Record, pid: int | None, *, ask: bool) -> Usage | None:
    """Return what a machine uses, whose process is `pid` (None: it does not run)."""
    if not record.folder.is_dir():
        return None
    taken = time.monotonic()  # of the books that are read first: a guest may keep the rest waiting
    fields: dict[str, float | int] = {}
    looks: list[Callable[[], dict[str, int] | dict[str, float]]] = [
        lambda: {"disk": files.disk_used(record.folder)}
    ]
    if pid is not None:
        looks += [lambda: cpu_time(pid), lambda: memory(pid)]
        if ask:
            looks += [lambda: _disks(record), lambda: _guest(record)]
    for one in looks:
        try:
            fields |= one()
        except (MlvmError, OSError, ValueError, LookupError, TypeError):
            continue  # what cannot be found out stays None
    return Usage(taken=taken, **fields)  # type: ignore[arg-type]


def cpu_time(pid: int, root: Path = PROC) -> dict[str, float]:
    """Return the CPU seconds of a process, all its threads together."""
    fields = (root / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    return {"cpu_seconds": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")}


def memory(pid: int, root: Path = PROC) -> dict[str, int]:
    """Return how much RAM of the host a process holds alone, and how much in files."""
    text = (root / str(pid) / "status").read_text()
    found = {name: int(kib) * 1024 for name, kib in re.findall(r"^(Rss\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return {"memory_private": found["RssAnon"], "memory_shared": found["RssFile"] + found["RssShmem"]}


def _disks(record: Record) -> dict[str, int]:
    with qmp.connect(launching.monitor_socket(record), wait=False) as monitor:  # a save keeps it for long
        stats = [one["stats"] for one in monitor.execute("query-blockstats") if one.get("qdev")]
    return {
        "disk_read": sum(one["rd_bytes"] for one in stats),
        "disk_written": sum(one["wr_bytes"] for one in stats),
    }


def _guest(record: Record) -> dict[str, int]:
    meminfo, network = launching.guest_of(record).read(MEMINFO, NETWORK, seconds=PATIENCE)
    return guest_memory(meminfo.decode()) | guest_network(network.decode())
