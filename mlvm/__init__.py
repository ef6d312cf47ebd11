"""mlvm: pinned Python toolchains as locked, reproducible VMs with a Jupyter kernel inside.

`%load_ext mlvm` gives the magics; the command line is `mlvm`; `mlvm.project` is the library's front door.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlvm.notebook.panel import Panel

__version__ = "0.1.0"


def load_ipython_extension(ipython: object) -> None:
    """Register `%mlvm` and `%%mlvm`; called by IPython for `%load_ext mlvm`."""
    from mlvm.notebook.magics import register  # noqa: PLC0415  (importing mlvm must not import IPython)

    register(ipython)


def panel() -> Panel:
    """Return a panel of all machines, live in a notebook; `%mlvm` alone shows the same."""
    from mlvm.notebook import panel as panels  # noqa: PLC0415  (importing mlvm must not import IPython)

    return panels.panel()
