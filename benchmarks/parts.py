"""The table of parts. A new one is a function `(bench: Bench) -> Sequence[Measure]`, and a line here."""

from __future__ import annotations

#: Name -> "module:function", in the order in which they are run.
PARTS = {
    "build": "benchmarks.build:measure_four",
    "sklearn": "benchmarks.build:measure_sklearn",
    "cli": "benchmarks.cli:measure",
    "cold": "benchmarks.cold:measure",
    "warm": "benchmarks.warm:measure",
    "density": "benchmarks.density:measure",
    "roundtrip": "benchmarks.roundtrip:measure",
    "share": "benchmarks.share:measure",
    "attach": "benchmarks.attach:measure",
    "export": "benchmarks.export:measure",
    "vagrant": "benchmarks.vagrant:measure",
}
