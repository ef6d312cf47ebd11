"""`mlvm doctor`: what this host can do, and what mends what it cannot."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from mlvm.cli.parser import Arguments
from mlvm.errors import MlvmError
from mlvm.image.store import Store
from mlvm.lock.document import CudaRecord
from mlvm.machine.doctor import examine
from mlvm.paths import Home
from mlvm.project import Project

COLOURS = {"ok": "\033[32m", "warn": "\033[33m", "fail": "\033[31m"}


def _cuda_here(home: Home) -> CudaRecord | None:
    """Return what the lock of the project here needs of a driver, if there is one that can be read."""
    try:
        lock = Project.find(None, Path.cwd(), home=home).lock()
    except MlvmError:
        return None
    return None if lock is None else lock.cuda


def doctor(arguments: Arguments) -> int:
    """Print every check; code 1 when one fails."""
    home = Home.find()
    checks = examine(home, vmlinuz=Store(home).guest_kernel(), cuda=_cuda_here(home))
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=1, default=str))
    else:
        coloured = sys.stdout.isatty()
        for check in checks:
            colour, off = (COLOURS[str(check.grade)], "\033[0m") if coloured else ("", "")
            print(f"{colour}{check.grade!s:<4}{off}  {check.name:<18} {check.found}")
            if check.mend:
                print(f"      {'':<18} mend: {check.mend}")
    return 1 if any(str(check.grade) == "fail" for check in checks) else 0
