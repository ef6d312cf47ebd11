"""`mlvm up`, `ssh`, `run`, `console`, `stop`, `suspend`, `destroy`: machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import machine_called, machines_meant, meant, observing
from mlvm.errors import LockError, MachineError
from mlvm.events import Observer
from mlvm.machine import folders
from mlvm.machine.record import Record
from mlvm.machine.table import DEFAULT, provider_for
from mlvm.machine.timings import Stopwatch, guest_timings, rows_of
from mlvm.paths import Home
from mlvm.process import replace_self
from mlvm.project import Project
from mlvm.terminal import table


def up(arguments: Arguments) -> int:
    """Bring up a machine, or all of a project, and say how to use it."""
    from mlvm import group

    project, name = _meant_by(arguments)
    frozen = arguments.frozen or bool(arguments.notebook)
    with observing(arguments.progress) as observer:
        watch = Stopwatch(observer)
        records = group.up(
            project,
            name,
            frozen=frozen,
            warm=not arguments.cold,
            here=Path.cwd(),
            run_by=arguments.provider,
            observer=watch,
        )
        timings = watch.finish() if arguments.timings else []
    record = records[-1]
    if len(records) == 1 and any(row.stage == "agent" for row in timings):
        console = record.console_log  # only machines of our own QEMU have one
        text = console.read_text(errors="replace") if console.exists() else ""
        timings += guest_timings(provider_for(record).guest(record), text)
    if arguments.json:
        rows = [{**asdict(row), "seconds": round(row.seconds, 3)} for row in timings]
        said = [{"name": one.name, "state": "running"} for one in records]
        if rows:
            said[-1] |= {"timings": rows}  # type: ignore[dict-item]
        print(json.dumps(said[0] if len(said) == 1 else said, indent=1))
        return 0
    if timings:
        print(table(rows_of(timings), header=("clock", "stage", "seconds")))
    for one in records:
        print(f"machine `{one.name}` is running")
        for line in folders.described(folders.of(one)):
            print(line)
    print(f"next: mlvm run {record.name} -- python3 --version, mlvm ssh {record.name}, mlvm kernel install")
    return 0


def _meant_by(arguments: Arguments) -> tuple[Project, str | None]:
    """Return the project and the machine's name; the lock in a notebook is taken as it is."""
    if not arguments.notebook:
        return meant(arguments.box, arguments.name)
    if arguments.box:
        raise MachineError(f"`{arguments.box}` and `--from` name two boxes", hint="name one of them")
    path = Path(arguments.notebook)
    project = Project.carried_by(path, home=Home.find())
    if project is None:
        raise LockError(f"there is no lock in notebook `{path}`", hint=f"mlvm lock BOX --into {path}")
    return project, arguments.name


def ssh(arguments: Arguments) -> int:
    """Become ssh."""
    record = machine_called(arguments.name)
    replace_self([*provider_for(record).ssh_command(record), *arguments.command])
    return 0


def run(arguments: Arguments) -> int:
    """Run a program in the guest with this process's streams; its exit code is ours."""
    if not arguments.command:
        raise MachineError("what should run?", hint="mlvm run [NAME] -- python3 --version")
    record = machine_called(arguments.name)
    guest = provider_for(record).guest(record)
    tty = sys.stdin.isatty() and sys.stdout.isatty() and not arguments.no_tty
    code = guest.stream(
        arguments.command,
        stdin=sys.stdin.buffer,
        stdout=sys.stdout.buffer,
        stderr=sys.stderr.buffer,
        tty=tty,
        env=dict(record.env),
        cwd=arguments.cwd or folders.place_of(record, Path.cwd()),
        user=arguments.user,
    )
    return code if code >= 0 else 128 - code


def console(arguments: Arguments) -> int:
    """Print the console's log, or attach to it."""
    record = machine_called(arguments.name)
    if record.provider != DEFAULT:
        raise MachineError(
            f"the console of machine `{record.name}` is in the hands of `{record.provider}`",
            hint="with libvirt: `virsh list` shows its name, `virsh console NAME` attaches to it",
        )
    if arguments.log:
        sys.stdout.write(
            record.console_log.read_text(errors="replace") if record.console_log.exists() else ""
        )
        return 0
    from mlvm.machine.qemu.console import attach

    attach(record, sys.stdin.buffer, sys.stdout.buffer)
    return 0


def stop(arguments: Arguments) -> int:
    """Shut machines down."""
    return _each(
        arguments,
        lambda record, observer: provider_for(record).stop(record, observer=observer),
        "is stopped",
    )


def suspend(arguments: Arguments) -> int:
    """Save machines' memory to disk."""
    return _each(
        arguments,
        lambda record, observer: provider_for(record).suspend(record, observer=observer),
        "is suspended; `mlvm up` goes on from here",
    )


def destroy(arguments: Arguments) -> int:
    """Remove machines, after asking where somebody can answer."""
    return _each(
        arguments,
        lambda record, observer: provider_for(record).destroy(record, observer=observer),
        "is gone",
        allowed=_may_destroy,
    )


def _each(
    arguments: Arguments,
    work: Callable[[Record, Observer], None],
    outcome: str,
    *,
    allowed: Callable[[Arguments, Sequence[Record]], bool] = lambda *_: True,
) -> int:
    """Do one thing with the machine that is meant, or with all of a project's, each after those that need it."""
    spec, records = machines_meant(arguments.name)
    if not allowed(arguments, records):
        print("nothing was done")
        return 1
    with observing(arguments.progress) as observer:
        if spec is None:
            work(records[0], observer)
        else:
            from mlvm import group

            group.down(spec, records, work, observer=observer)
    for record in records:
        print(f"machine `{record.name}` {outcome}")
    return 0


def _may_destroy(arguments: Arguments, records: Sequence[Record]) -> bool:
    if arguments.yes:
        return True
    names = ", ".join(f"`{record.name}`" for record in records)
    one = len(records) == 1
    if not sys.stdin.isatty():
        raise MachineError(
            f"machine {names} has its own disk, which would be lost"
            if one
            else f"machines {names} have their own disks, which would be lost",
            hint="mlvm destroy --yes" + (f" {records[0].name}" if one else ""),
        )
    question = (
        f"destroy machine {names} and its disk?" if one else f"destroy machines {names} and their disks?"
    )
    return input(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
