"""`mlvm fork`: a running machine becomes several."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import machine_called, observing
from mlvm.errors import MachineError
from mlvm.image.store import Store
from mlvm.machine.create import fork_names, forks_of
from mlvm.machine.table import provider_for


def fork(arguments: Arguments) -> int:
    """Make a running machine into more, and say how to use them."""
    record = machine_called(arguments.name)
    copies = forks_of(record, fork_names(record.home, record.name, arguments.new, arguments.count))
    image = Store(record.home).find_image(record.image_id)
    if image is None:
        raise MachineError(
            f"the image of machine `{record.name}` is not in the store", hint=f"mlvm build {record.project}"
        )
    with observing(arguments.progress) as observer:
        guests = provider_for(record).fork(record, image, copies, observer=observer)
    made = {copy.name: guest.waiting_kernels() for copy, guest in zip(copies, guests, strict=True)}
    if arguments.json:
        rows = [{"name": name, "kernels": [asdict(kernel) for kernel in made[name]]} for name in made]
        print(json.dumps(rows, indent=1))
        return 0
    for name, kernels in made.items():
        count = f"{len(kernels)} kernel{'s' * (len(kernels) != 1)}"
        waiting = f"; {count} of `{record.name}` wait{'s' * (len(kernels) == 1)} in it" if kernels else ""
        print(f"machine `{name}` is running{waiting}")
    first = copies[0].name
    kernel = shlex.join(["mlvm", "kernel", "install", record.project, "--machine", first])
    print(f"next: mlvm run {first} -- hostname, {kernel}")
    return 0
