"""A picture of where the time goes: one bar a contestant, one colour a stage, medians."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measures import Result, Series


def bars(result: Result) -> list[tuple[str, Series]]:
    """Return what has stages, each once: a baseline may serve several measures."""
    found: dict[str, Series] = {}
    for measure in result.measures:
        if measure.ours.stages:
            found[f"{measure.ours.name}: {measure.name}"] = measure.ours
    for measure in result.measures:
        if measure.baseline.stages:
            found[measure.baseline.name] = measure.baseline
    return list(found.items())


def growth(result: Result) -> dict[int, Series]:
    """Return the measures of so many things at once (`4 at once, idle`), by how many."""
    found = ((re.fullmatch(r"(\d+) at once, idle", one.name), one.ours) for one in result.measures)
    return {int(name[1]): series for name, series in found if name}


def save(result: Result, path: Path) -> bool:
    """Draw the stages of a result; return whether there were any."""
    shown = bars(result)
    if not shown:
        return False
    steps = growth(result)
    import matplotlib as mpl  # noqa: PLC0415  (a second to import, and only some parts have stages)

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    if len(steps) > 1:
        _draw_growth(pyplot, result, steps, path)
        return True
    names = list(dict.fromkeys(name for _, series in shown for name in series.stages))
    colours = dict(zip(names, pyplot.get_cmap("tab20").colors * 2, strict=False))  # type: ignore[attr-defined]
    figure, axes = pyplot.subplots(figsize=(10, 1.2 + 0.45 * len(shown)))
    for row, (_, series) in enumerate(shown):
        left = 0.0
        for name, samples in series.stages.items():
            axes.barh(row, median(samples), left=left, color=colours[name])
            left += median(samples)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colours[name]) for name in names]
    axes.legend(handles, names, fontsize=7, ncols=2, loc="best")
    axes.set_yticks(range(len(shown)), [label for label, _ in shown], fontsize=8)
    axes.invert_yaxis()
    unit = result.measures[0].unit
    axes.set_xlabel("seconds" if unit == "s" else unit)
    axes.set_title(f"{result.part}, {result.date[:10]}: medians of {len(result.loads)} runs", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
    return True


def _draw_growth(pyplot: Any, result: Result, steps: Mapping[int, Series], path: Path) -> None:
    """Draw what so many take together, and how much that is for each."""
    numbers = sorted(steps)
    figure, axes = pyplot.subplots(figsize=(8, 4.2))
    kinds = list(steps[numbers[0]].stages)
    together = [[number * median(steps[number].stages[kind]) for number in numbers] for kind in kinds]
    axes.stackplot(numbers, together, labels=kinds, alpha=0.8)
    for number in numbers:
        each = steps[number].median
        axes.annotate(f"{each:.0f} each", (number, number * each), fontsize=8, ha="right", va="bottom")
    bars_ = [one.bar for one in result.measures if one.bar is not None and one.bar.of == "ours"]
    if bars_:
        limit = bars_[0].limit
        axes.plot(numbers, [limit * number for number in numbers], "k--", lw=1, label=f"bar: {limit:g} each")
    axes.set_xlabel("machines at once")
    axes.set_ylabel(f"{result.measures[0].unit}, private, together")
    axes.set_xticks(numbers)
    axes.legend(fontsize=8, loc="upper left")
    axes.set_title(f"{result.part}, {result.date[:10]}: medians of {len(result.loads)} runs", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
