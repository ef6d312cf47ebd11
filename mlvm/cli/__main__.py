"""`python -m mlvm.cli`: the command line without its console script."""

from __future__ import annotations

from mlvm.cli import main

main()
