"""A picture of where the time goes: one bar a contestant, one colour a stage, medians."""

from __future__ import annotations

from pathlib import Path
from statistics import median

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


def save(result: Result, path: Path) -> bool:
    """Draw the stages of a result; return whether there were any."""
    shown = bars(result)
    if not shown:
        return False
    import matplotlib as mpl  # noqa: PLC0415  (a second to import, and only some parts have stages)

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

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
    axes.set_xlabel("seconds")
    axes.set_title(f"{result.part}, {result.date[:10]}: medians of {len(result.loads)} runs", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
    return True
