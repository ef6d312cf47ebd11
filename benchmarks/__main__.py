"""`python -m benchmarks [PART...] [--runs N] [--out FOLDER]`: measure, print, keep."""

from __future__ import annotations

import argparse
import importlib
import math
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import host, plot, report, results
from benchmarks.bench import Bench
from benchmarks.measures import Measure, Result
from benchmarks.parts import PARTS
from mlvm.errors import MlvmError
from mlvm.paths import Home
from mlvm.terminal import show_error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for; 0 when every bar is met, 1 when one is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)} (all)")
    parser.add_argument("--runs", type=int, default=5, help="samples of everything (default: 5)")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no further round of a part after so many"
    )
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the results")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.parts) - set(PARTS)
    if unknown or arguments.runs < 1:
        parser.error(f"there is no part {', '.join(sorted(unknown))}" if unknown else "--runs is at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what a part has started ends with it
    missed = False
    for part in arguments.parts or PARTS:
        try:
            result = run(part, runs=arguments.runs, minutes=arguments.minutes)
        except MlvmError as error:
            show_error(error, sys.stderr)
            return error.exit_code
        path = results.save(result, arguments.out)
        plot.save(result, path.with_suffix(".png"))
        for measure in result.measures:
            print(report.line(part, measure), flush=True)
            missed = missed or measure.met is False
        print(f"written to {path}", flush=True)
    return int(missed)


def run(part: str, *, runs: int, minutes: float = math.inf) -> Result:
    """Measure one part in a folder of its own."""
    home = Home.find()
    kept = home.cache / "benchmarks"
    kept.mkdir(parents=True, exist_ok=True)
    described = host.describe()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(dir=kept, prefix="run-") as folder:
        bench = Bench(
            runs=runs, home=home, folder=Path(folder), say=_say, deadline=time.monotonic() + 60 * minutes
        )
        module, function = PARTS[part].split(":")
        measures: Sequence[Measure] = getattr(importlib.import_module(module), function)(bench)
    return Result(
        part=part,
        date=date,
        commit=host.commit(),
        machine=described,
        loads=tuple(bench.loads),
        measures=tuple(measures),
        notes=tuple(bench.notes),
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
