"""`mlvm up`, `status`, `ssh`, `run`, `console`, `stop`, `suspend`, `destroy`: machines."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import machine_called, observing, project_at
from mlvm.errors import MachineError
from mlvm.machine.record import load, names
from mlvm.machine.table import provider_for
from mlvm.machine.timings import Stopwatch, guest_timings, rows_of
from mlvm.paths import Home
from mlvm.process import replace_self
from mlvm.spec.document import GIB
from mlvm.terminal import table


def up(arguments: Arguments) -> int:
    """Bring up a machine and say how to use it."""
    with observing(arguments.progress) as observer:
        watch = Stopwatch(observer)
        record = project_at(arguments.box).up(
            arguments.name, frozen=arguments.frozen, warm=not arguments.cold, observer=watch
        )
        timings = watch.finish() if arguments.timings else []
    if any(row.stage == "agent" for row in timings):
        timings += guest_timings(
            provider_for(record).guest(record), record.console_log.read_text(errors="replace")
        )
    if arguments.json:
        rows = [{**asdict(row), "seconds": round(row.seconds, 3)} for row in timings]
        print(
            json.dumps(
                {"name": record.name, "state": "running", **({"timings": rows} if rows else {})}, indent=1
            )
        )
        return 0
    if timings:
        print(table(rows_of(timings), header=("clock", "stage", "seconds")))
    print(f"machine `{record.name}` is running")
    print(f"next: mlvm run {record.name} -- python3 --version, mlvm ssh {record.name}, mlvm kernel install")
    return 0


def status(arguments: Arguments) -> int:
    """Show every machine; one that cannot be read is shown as broken, with the reason."""
    home = Home.find()
    rows: list[dict[str, Any]] = []
    for name in names(home):
        try:
            record = load(home, name)
            if record is None:
                continue
            condition = provider_for(record).state(record)
        except MachineError as broken:
            rows.append(
                {"name": name, "state": "broken", "reasons": [broken.message], "project": "", "image": ""}
            )
            continue
        rows.append(
            {
                "name": name,
                "state": str(condition.state),
                "reasons": list(condition.reasons),
                "provider": record.provider,
                "cpus": record.shape.cpus,
                "memory": record.shape.memory,
                "image": record.image_id,
                "project": record.project,
            }
        )
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    if not rows:
        print("no machines; next: mlvm up")
        return 0
    shown = [
        (
            row["name"],
            row["state"],
            str(row.get("cpus", "-")),
            f"{row['memory'] / GIB:g} GiB" if "memory" in row else "-",
            row["image"][:12],
            row["project"],
        )
        for row in rows
    ]
    print(table(shown, header=("name", "state", "cpus", "memory", "image", "project")))
    for row in rows:
        for reason in row["reasons"]:
            print(f"{row['name']}: {reason}")
    return 0


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
        cwd=arguments.cwd,
        user=arguments.user,
    )
    return code if code >= 0 else 128 - code


def console(arguments: Arguments) -> int:
    """Print the console's log, or attach to it."""
    record = machine_called(arguments.name)
    if arguments.log:
        sys.stdout.write(
            record.console_log.read_text(errors="replace") if record.console_log.exists() else ""
        )
        return 0
    from mlvm.machine.qemu.console import attach

    attach(record, sys.stdin.buffer, sys.stdout.buffer)
    return 0


def stop(arguments: Arguments) -> int:
    """Shut a machine down."""
    record = machine_called(arguments.name)
    with observing(arguments.progress) as observer:
        provider_for(record).stop(record, observer=observer)
    print(f"machine `{record.name}` is stopped")
    return 0


def suspend(arguments: Arguments) -> int:
    """Save a machine's memory to disk."""
    record = machine_called(arguments.name)
    with observing(arguments.progress) as observer:
        provider_for(record).suspend(record, observer=observer)
    print(f"machine `{record.name}` is suspended; `mlvm up` goes on from here")
    return 0


def destroy(arguments: Arguments) -> int:
    """Remove a machine, after asking where somebody can answer."""
    record = machine_called(arguments.name)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise MachineError(
                f"machine `{record.name}` has its own disk, which would be lost",
                hint=f"mlvm destroy --yes {record.name}",
            )
        if input(f"destroy machine `{record.name}` and its disk? [y/N] ").strip().lower() not in {"y", "yes"}:
            print("nothing was done")
            return 1
    with observing(arguments.progress) as observer:
        provider_for(record).destroy(record, observer=observer)
    print(f"machine `{record.name}` is gone")
    return 0
