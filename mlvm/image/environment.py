"""Where the person's Python is in the guest, and what a command of a package looks like there."""

from __future__ import annotations

VENV = "opt/mlvm/venv"
PYTHON = f"/{VENV}/bin/python"
_COMMAND = """\
#!{python}
import sys
from {module} import {name}
if __name__ == "__main__":
    sys.exit({function}())
"""


def command_text(target: str) -> bytes:
    """Return the program that calls `target`, "module:function"."""
    module, _, function = target.partition(":")
    return _COMMAND.format(
        python=PYTHON, module=module, name=function.split(".")[0], function=function
    ).encode()
