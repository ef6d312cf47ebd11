"""`mlvm doctor`: what this host can do, and what mends what it cannot."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from mlvm.cli.parser import Arguments
from mlvm.image.document import Artifact
from mlvm.image.store import Store
from mlvm.machine.doctor import examine
from mlvm.paths import Home

COLOURS = {"ok": "\033[32m", "warn": "\033[33m", "fail": "\033[31m"}


def _guest_kernel(home: Home) -> Artifact | None:
    """Return a guest kernel from the store to try the accelerator with; None before the first build."""
    store = Store(home)
    found = (store.find_image(path.stem) for path in sorted(store.images.glob("*.json")))
    return next((image.vmlinuz for image in found if image is not None), None)


def doctor(arguments: Arguments) -> int:
    """Print every check; code 1 when one fails."""
    home = Home.find()
    checks = examine(home, vmlinuz=_guest_kernel(home))
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
