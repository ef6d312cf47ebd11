"""The table of parts. A new one is a module with `measure(bench: Bench) -> Sequence[Measure]`, and a line here."""

from __future__ import annotations

#: Name -> module, in the order in which they are run.
PARTS = {
    "build": "benchmarks.build",
    "cli": "benchmarks.cli",
}
