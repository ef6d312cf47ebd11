"""`make demo`: a box from its committed lock to a notebook that ran inside it, in plain view.

Calls the same commands a person would type and prints each one; the last step executes `notebooks/quickstart.ipynb`
on the kernel inside the machine and prints every cell with what it answered.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
BOX = "sklearn"
MACHINE = "demo"
KERNEL = "mlvm-demo"


def main() -> None:
    """Build, boot, run the notebook, say where it ran."""
    began = time.monotonic()
    mlvm("up", BOX, "--name", MACHINE, "--frozen")
    mlvm("kernel", "install", BOX, "--name", KERNEL, "--machine", MACHINE, "--sys-prefix")
    say(f"running {NOTEBOOK.relative_to(ROOT)} on kernel {KERNEL}")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, kernel_name=KERNEL, timeout=600, startup_timeout=300, on_cell_executed=show_cell
    )
    client.execute()
    mlvm("status")
    host = os.uname()
    say(
        f"this host is {host.nodename} with kernel {host.release}; the cells above ran in machine `{MACHINE}`"
    )
    say(f"done in {time.monotonic() - began:.0f} s")
    program = Path(bin_path("mlvm")).relative_to(ROOT)
    print("next: " + ", ".join(f"{program} {verb} {MACHINE}" for verb in ("ssh", "stop", "destroy")))


def mlvm(*words: str) -> None:
    """Run one mlvm command in plain view."""
    say("mlvm " + shlex.join(words))
    subprocess.run([bin_path("mlvm"), *words], check=True)


def show_cell(cell: nbformat.NotebookNode, **_: object) -> None:
    """Print a code cell and its outputs as text."""
    if cell.cell_type != "code":
        return
    for number, line in enumerate(cell.source.splitlines()):
        print("In : " if number == 0 else "   : ", line, sep="")
    for output in cell.outputs:
        data = output.get("data", {})
        text = output.get("text") or data.get("text/plain") or ""
        images = [kind for kind in data if kind.startswith("image/")]
        for line in [*text.splitlines(), *(f"[{kind}]" for kind in images)]:
            print("   | ", line, sep="")
    print(flush=True)


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n== {text}", flush=True)


def bin_path(name: str) -> str:
    """Return the path of a program of this environment."""
    return str(Path(sys.executable).parent / name)


if __name__ == "__main__":
    main()
