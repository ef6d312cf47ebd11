"""mlvm: pinned Python toolchains as locked, reproducible VMs with a Jupyter kernel inside.

`%load_ext mlvm` gives the magics; the command line is `mlvm`; `mlvm.project` is the library's front door.
"""

from __future__ import annotations

__version__ = "0.1.0"


def load_ipython_extension(ipython: object) -> None:
    """Register `%mlvm` and `%%mlvm`; called by IPython for `%load_ext mlvm`."""
    from mlvm.notebook.magics import register  # noqa: PLC0415  (importing mlvm must not import IPython)

    register(ipython)
