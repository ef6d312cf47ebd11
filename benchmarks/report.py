"""Say what came out: a line a measure for the terminal, tables for `docs/benchmarks.md`.

The page's words are written by people; between `<!-- PART -->` and `<!-- /PART -->` stands what this module makes of
the newest result, so that no number on the page was ever typed. `python -m benchmarks.report` writes it.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks import results
from benchmarks.measures import Measure, Result, Series
from mlvm.files import write_whole

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def line(part: str, measure: Measure) -> str:
    """Return a measure as one line, the ratio first."""
    return (
        f"{measure.ratio:8.3f}x  {part}: {measure.name}: {verdict(measure)}; "
        f"{measure.ours.name} {spread(measure.ours, measure.unit)}, "
        f"{measure.baseline.name} {spread(measure.baseline, measure.unit)}"
    )


def spread(series: Series, unit: str) -> str:
    """Return median, least and most: `9.8 s (9.6-10.4)`."""
    return f"{number(series.median)} {unit} ({number(min(series.samples))}-{number(max(series.samples))})"


def verdict(measure: Measure) -> str:
    """Return the bar and whether it is met."""
    if measure.bar is None:
        return "no bar"
    side = "at least" if measure.bar.at_least else "at most"
    unit = "x" if measure.bar.of == "ratio" else f" {measure.unit}"
    return f"{side} {measure.bar.limit:g}{unit}: {'met' if measure.met else 'MISSED'}"


def number(value: float) -> str:
    """Write a value with three digits that say something."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def section(result: Result, plot: Path | None, *, link: str) -> str:
    """Return what the page shows of a part; `link` leads from the page to the folder of results."""
    host = result.machine
    rows = [
        f"| {one.ratio:.3f} | {one.name} | {verdict(one)} | {one.ours.name} {spread(one.ours, one.unit)} "
        f"| {one.baseline.name} {spread(one.baseline, one.unit)} |"
        for one in result.measures
    ]
    parts = [
        "| ratio | measure | bar | ours: median (least-most) | baseline: median (least-most) |\n"
        "|---|---|---|---|---|\n" + "\n".join(rows),
        *(f"- {note}" for note in result.notes),
        (
            f"Measured on {result.date[:10]} ([every sample]({link}/{result.date[:10]}-{result.part}.json)), "
            f"{len(result.loads)} rounds, mlvm {result.commit[:12]}: {host['cpu']}, {host['cores']} cores, "
            f"{host['memory_gib']:g} GiB, {host['system']}, QEMU {host['qemu']}, Python {host['python']}; "
            f"load {min(result.loads):g}-{max(result.loads):g} at the beginning of the rounds."
        ),
    ]
    if plot is not None:
        parts.append(f"![stages of {result.part}]({link}/{plot.name})")
    return "\n\n".join(parts)


def rewritten(page: str, folder: Path, *, link: str = "../benchmarks/results") -> str:
    """Return the page with what the newest results say. Raises ValueError for a part the page has no place for."""
    for part, path in results.newest(folder).items():
        block = re.compile(rf"(<!-- {part} -->\n).*?(<!-- /{part} -->)", re.DOTALL)
        if not block.search(page):
            raise ValueError(
                f"the page has no place for `{part}`: write `<!-- {part} -->` and `<!-- /{part} -->`"
            )
        plot = path.with_suffix(".png")
        text = section(results.load(path), plot if plot.exists() else None, link=link)
        page = block.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
    return page


if __name__ == "__main__":
    write_whole(PAGE, rewritten(PAGE.read_text(), results.FOLDER))
