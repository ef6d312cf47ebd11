"""`mlvm status`: every machine, what it is doing, and what it uses.

Without `--usage` only the host's own books are read: that is quick however many machines there are, and whatever their
guests are busy with.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from mlvm.cli.parser import Arguments
from mlvm.errors import MachineError
from mlvm.machine import folders
from mlvm.machine.record import load, names
from mlvm.machine.share.listed import Shared
from mlvm.machine.table import provider_for
from mlvm.machine.usage import usage
from mlvm.paths import Home
from mlvm.spec.document import GIB
from mlvm.terminal import printable, size, table

HEADER = ("name", "state", "cpus", "memory", "cpu time", "RAM used", "disk used", "image", "project")
INSIDE = ("name", "guest free", "guest memory", "disk read", "disk written", "received", "sent")
NOTHING = "-"


def status(arguments: Arguments) -> int:
    """Show every machine; one that cannot be read is shown as broken, with the reason."""
    home = Home.find()
    if arguments.watch is not None:
        if arguments.json:
            raise MachineError("`--watch` draws and `--json` does not", hint="leave out one of them")
        from mlvm.cli.watch import watch

        return watch(home, interval=arguments.watch)
    rows = [row for name in names(home) if (row := _row(home, name, ask=arguments.usage))]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    if not rows:
        print("no machines; next: mlvm up")
        return 0
    print(table([_outside(row) for row in rows], header=HEADER))
    if arguments.usage and (running := [row for row in rows if row["state"] == "running"]):
        print()
        print(table([_inside(row) for row in running], header=INSIDE))
    for row in rows:
        for reason in row["reasons"]:
            print(printable(f"{row['name']}: {reason}"))
        for line in folders.described([Shared(**one) for one in row.get("shares", ())]):
            print(printable(f"{row['name']}: {line}"))
    return 0


def _row(home: Home, name: str, *, ask: bool) -> dict[str, Any] | None:
    """Return what `--json` says of a machine; None when it has gone meanwhile."""
    try:
        record = load(home, name)
        if record is None:
            return None
        provider = provider_for(record)
        condition = provider.state(record)
    except MachineError as broken:
        return {"name": name, "state": "broken", "reasons": [broken.message], "project": "", "image": ""}
    used = usage(record, provider, ask=ask)
    return {
        "name": name,
        "state": str(condition.state),
        "reasons": list(condition.reasons),
        "provider": record.provider,
        "cpus": record.shape.cpus,
        "memory": record.shape.memory,
        "image": record.image_id,
        "fork_of": record.fork_of or None,
        "project": record.project,
        "shares": [asdict(one) for one in folders.of(record)],
        "usage": asdict(used) if used else {},
    }


def _outside(row: dict[str, Any]) -> tuple[str, ...]:
    used = row.get("usage", {})
    seconds = used.get("cpu_seconds")
    return (
        row["name"],
        row["state"],
        str(row.get("cpus", NOTHING)),
        f"{row['memory'] / GIB:g} GiB" if "memory" in row else NOTHING,
        NOTHING if seconds is None else f"{seconds:.1f} s",
        _size(used.get("memory_private")),
        _size(used.get("disk")),
        row["image"][:12],
        row["project"],
    )


def _inside(row: dict[str, Any]) -> tuple[str, ...]:
    fields = ("guest_available", "guest_memory", "disk_read", "disk_written", "received", "sent")
    return (row["name"], *(_size(row["usage"].get(field)) for field in fields))


def _size(found: int | None) -> str:
    return NOTHING if found is None else size(found)
