"""`mlvm set`: what a running machine may take, changed while it runs; the spec says what holds from the next start."""

from __future__ import annotations

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import machine_called, observing
from mlvm.errors import MachineError
from mlvm.machine.provider import Limits
from mlvm.machine.table import provider_for


def limit(arguments: Arguments) -> int:
    """Change limits of a running machine."""
    wanted = Limits(
        cpu_weight=_number("--cpu-weight", arguments.cpu_weight, least=1, most=10_000),
        disk_iops=_number("--disk-iops", arguments.disk_iops, least=10, most=10_000_000, none=0),
        memory=None if arguments.memory is None else _size(arguments.memory),
    )
    if wanted == Limits():
        raise MachineError(
            "what should change?", hint="mlvm set [NAME] --cpu-weight 50, or `mlvm set --help`"
        )
    record = machine_called(arguments.name)
    with observing(arguments.progress) as observer:
        provider_for(record).limit(record, wanted, observer=observer)
    print(f"machine `{record.name}` has its new limits until it is stopped")
    return 0


def _number(option: str, given: int | None, *, least: int, most: int, none: int | None = None) -> int | None:
    if given is None or given == none or least <= given <= most:
        return given
    raise MachineError(f"`{option} {given}` is out of range: {least} to {most}", hint="mlvm set --help")


def _size(text: str) -> int:
    """Return the bytes of a size as specs write it."""
    from mlvm.spec.complaints import Mark, Place, Report
    from mlvm.spec.machines import LEAST_MEMORY
    from mlvm.spec.nodes import Kind, Scalar
    from mlvm.spec.scalars import Size

    report = Report()
    node = Scalar(mark=Mark(file="--memory"), text=text, kind=Kind.TEXT)
    found = Size(least=LEAST_MEMORY).read(node, Place(report=report))
    if found is None:
        raise MachineError(f"--memory: {report.complaints[0].text}", hint='mlvm set --memory "1 GiB"')
    return found
