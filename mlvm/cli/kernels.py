"""`mlvm kernel install|list|remove`: kernels as Jupyter knows them."""

from __future__ import annotations

import json

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import project_at
from mlvm.kernel import kernelspec
from mlvm.terminal import table


def install(arguments: Arguments) -> int:
    """Install a kernelspec for a box or project."""
    project = project_at(arguments.box)
    installed = kernelspec.install(
        project.spec(),
        project.folder,
        name=arguments.name,
        machine=arguments.machine,
        sys_prefix=arguments.sys_prefix,
    )
    print(f"kernel `{installed.name}` is installed: {installed.folder}")
    print(f"next: jupyter lab, or jupyter console --kernel {installed.name}")
    return 0


def show(arguments: Arguments) -> int:
    """List installed kernels."""
    found = kernelspec.installed()
    if arguments.json:
        print(
            json.dumps(
                [
                    {"name": k.name, "machine": k.machine, "project": str(k.project), "folder": str(k.folder)}
                    for k in found
                ],
                indent=1,
            )
        )
    elif found:
        rows = [(k.name, k.display_name, k.machine, str(k.project)) for k in found]
        print(table(rows, header=("kernel", "shown as", "machine", "project")))
    else:
        print("no kernels; next: mlvm kernel install BOX")
    return 0


def remove(arguments: Arguments) -> int:
    """Remove a kernelspec."""
    kernelspec.remove(arguments.kernel)
    print(f"kernel `{arguments.kernel}` is forgotten")
    return 0
