"""`mlvm reproduce`: run a notebook again, and compare."""

from __future__ import annotations

from pathlib import Path

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import observing
from mlvm.paths import Home
from mlvm.terminal import table

#: Columns of a reason in the table; the reports have it whole.
LONGEST = 90


def reproduce(arguments: Arguments) -> int:
    """Run a notebook in its box, write what was asked for, and say what came of it."""
    from mlvm.reproduce import page
    from mlvm.reproduce.document import EXIT_CODES, Tolerance
    from mlvm.reproduce.reproduce import Wish, reproduce
    from mlvm.spec import ipynb

    reports = [Path(name) for name in arguments.report]
    for path in reports:
        page.check_name(path)
    tolerance = Tolerance(
        relative=arguments.rtol,
        absolute=arguments.atol,
        picture=arguments.picture_distance,
        strict=arguments.strict,
    )
    wish = Wish(
        box=arguments.box,
        machine=arguments.machine,
        keep=arguments.keep,
        frozen=arguments.frozen,
        timeout=arguments.timeout,
        tolerance=tolerance,
    )
    with observing(arguments.progress) as observer:
        report, notebook = reproduce(
            Path(arguments.notebook), wish, home=Home.find(), cwd=Path.cwd(), observer=observer
        )
    for path in reports:
        page.write(report, path)
    if arguments.output:
        ipynb.save(ipynb.at(notebook, Path(arguments.output)))
    if arguments.json:
        print(page.to_json(report), end="")
    else:
        rows = [
            (
                str(cell.number),
                cell.verdict.value,
                _first_line(cell.source, 32),
                _said(cell.why, cell.reasons),
            )
            for cell in report.cells
        ]
        print(table(rows, header=("cell", "verdict", "begins", "")))
        counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(report.counts.items()))
        print(f"{report.notebook}: {report.outcome} ({counts or 'no code cells'}), ran in {report.box}")
    return EXIT_CODES[report.outcome]


def _first_line(text: str, most: int) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= most else line[: most - 3] + "..."


def _said(why: str, reasons: tuple[str, ...]) -> str:
    return _first_line(why or ("but for " + ", ".join(reasons) if reasons else ""), LONGEST)
