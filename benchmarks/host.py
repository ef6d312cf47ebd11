"""What the numbers were measured on: the parts of a host that decide how fast things are, and nothing that names it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from mlvm import process

ROOT = Path(__file__).parent.parent


def describe() -> dict[str, Any]:
    """Return the description of this host."""
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "load": [round(one, 2) for one in os.getloadavg()],
        "system": _system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "qemu": _qemu(),
    }


def cpu_model(cpuinfo: str) -> str:
    """Return the model in the text of /proc/cpuinfo."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return " ".join(found[1].split()) if found else platform.machine()


def load() -> float:
    """Return how many programs wanted a core during the last minute."""
    return round(os.getloadavg()[0], 2)


def commit() -> str:
    """Return the commit of this clone, marked when something in `mlvm/` differs from it."""
    head = process.run(["git", "-C", ROOT, "rev-parse", "HEAD"]).stdout.decode().strip()
    changed = process.run(["git", "-C", ROOT, "status", "--porcelain", "--", "mlvm"]).stdout.strip()
    return f"{head} with changes" if changed else head


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return platform.system()


def _qemu() -> str:
    program = process.find_program("qemu-system-x86_64")
    if program is None:
        return "none"
    said = process.run([program, "--version"]).stdout.decode()
    return said.partition("version ")[2].split("\n")[0]
