"""`mlvm snapshot save|restore|list|delete`: machines as they were."""

from __future__ import annotations

import json

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import machine_called, observing
from mlvm.errors import MachineError
from mlvm.image.store import Store
from mlvm.machine.table import provider_for
from mlvm.terminal import size, table


def save(arguments: Arguments) -> int:
    """Keep a running machine under a name."""
    record = machine_called(arguments.machine)
    with observing(arguments.progress) as observer:
        provider_for(record).snapshot(record, arguments.snapshot, observer=observer)
    print(f"machine `{record.name}` is kept as `{arguments.snapshot}`, and goes on running")
    return 0


def restore(arguments: Arguments) -> int:
    """Go back to a snapshot."""
    record = machine_called(arguments.machine)
    image = Store(record.home).find_image(record.image_id)
    if image is None:
        raise MachineError(
            f"the image of machine `{record.name}` is not in the store", hint=f"mlvm build {record.project}"
        )
    with observing(arguments.progress) as observer:
        provider_for(record).go_back(record, image, arguments.snapshot, observer=observer)
    print(f"machine `{record.name}` is what it was when `{arguments.snapshot}` was saved, and runs")
    return 0


def show(arguments: Arguments) -> int:
    """List a machine's snapshots."""
    record = machine_called(arguments.machine)
    found = provider_for(record).snapshots(record)
    if arguments.json:
        rows = [{"name": one.name, "made": one.made.isoformat(), "bytes": one.size} for one in found]
        print(json.dumps(rows, indent=1))
    elif found:
        rows_shown = [
            (one.name, f"{one.made.astimezone():%Y-%m-%d %H:%M:%S}", size(one.size)) for one in found
        ]
        print(table(rows_shown, header=("snapshot", "made", "size")))
    else:
        print(f"machine `{record.name}` has no snapshots; next: mlvm snapshot save NAME")
    return 0


def delete(arguments: Arguments) -> int:
    """Remove a snapshot."""
    record = machine_called(arguments.machine)
    with observing(arguments.progress) as observer:
        provider_for(record).forget_snapshot(record, arguments.snapshot, observer=observer)
    print(f"snapshot `{arguments.snapshot}` of machine `{record.name}` is gone")
    return 0
