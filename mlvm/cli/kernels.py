"""`mlvm kernel install|list|remove|output|end`: kernels as Jupyter knows them, and those that live in machines."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import project_at
from mlvm.kernel import kernelspec, registry
from mlvm.paths import Home
from mlvm.terminal import size, table


def install(arguments: Arguments) -> int:
    """Install a kernelspec for a box or project."""
    project = project_at(arguments.box)
    installed = kernelspec.install(
        project.spec(),
        project.folder,
        name=arguments.name,
        machine=arguments.machine,
        sys_prefix=arguments.sys_prefix,
        lock=project.lock(),
    )
    print(f"kernel `{installed.name}` is installed: {installed.folder}")
    print(f"next: jupyter lab, or jupyter console --kernel {installed.name}")
    return 0


def show(arguments: Arguments) -> int:
    """List installed kernels, and those that live in running machines."""
    found, living = kernelspec.installed(), registry.everywhere(Home.find())
    if arguments.json:
        document = {
            "installed": [
                {"name": k.name, "machine": k.machine, "project": str(k.project), "folder": str(k.folder)}
                for k in found
            ],
            "running": [{**asdict(k), "state": k.state} for k in living],
        }
        print(json.dumps(document, indent=1))
        return 0
    if found:
        rows = [(k.name, k.display_name, k.machine, str(k.project)) for k in found]
        print(table(rows, header=("kernel", "shown as", "machine", "project")))
    else:
        print("no kernels; next: mlvm kernel install BOX")
    if living:
        print()
        header = ("id", "machine", "state", "for", "last said", "kept", "missed", "notebook", "in use")
        print(table([_row(known) for known in living], header=header))
    return 0


def output(arguments: Arguments) -> int:
    """Print what a kernel wrote, as text; it may have ended."""
    _, _, guest, known = registry.find(Home.find(), arguments.kernel)
    kept = registry.output(guest, known.kernel_id, unheard=arguments.missed)
    if kept.lost and not arguments.missed:
        print(f"mlvm: the first {kept.lost} messages are not kept any more", file=sys.stderr)
    for said in kept.messages:
        print(_text(said), end="")
    return 0


def end(arguments: Arguments) -> int:
    """End a kernel that lives in a machine."""
    _, _, guest, known = registry.find(Home.find(), arguments.kernel)
    guest.signal_kernel(known.kernel_id, signal.SIGKILL)
    print(f"kernel `{known.kernel_id[:8]}` in machine `{known.machine}` is ended")
    return 0


def _row(known: registry.Known) -> tuple[str, ...]:
    return (
        known.kernel_id[:8],
        known.machine,
        known.state,
        _ago(known.since),
        f"{_ago(known.activity)} ago",
        size(known.kept),
        str(known.missed or ""),
        Path(known.session).name,
        "yes" if known.used else "",
    )


def _ago(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _text(said: registry.Said) -> str:
    """Return what a terminal can show of a message."""
    content = said.content
    match said.header["msg_type"]:
        case "stream":
            return str(content["text"])
        case "execute_result" | "display_data":
            return str(content["data"].get("text/plain", "")) + "\n"
        case "error":
            return "\n".join(content["traceback"]) + "\n"
    return ""


def remove(arguments: Arguments) -> int:
    """Remove a kernelspec."""
    kernelspec.remove(arguments.kernel)
    print(f"kernel `{arguments.kernel}` is forgotten")
    return 0
