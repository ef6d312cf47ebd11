"""Plots: what they show, and that they are pictures of a decent size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from test_measures import compared, result

from benchmarks import plot
from benchmarks.measures import Series

STAGED = Series(name="mlvm", samples=(3.0,), stages={"first": (1.0,), "second": (2.0,)})


def test_nothing_is_drawn_without_stages(tmp_path: Path) -> None:
    assert not plot.save(result(), tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []


def test_a_baseline_of_many_measures_is_drawn_once() -> None:
    old = replace(STAGED, name="old")
    measures = tuple(replace(compared(), name=name, ours=STAGED, baseline=old) for name in ("full", "one"))

    labels = [label for label, _ in plot.bars(replace(result(), measures=measures))]

    assert labels == ["mlvm: full", "mlvm: one", "old"]


def test_a_small_picture(tmp_path: Path) -> None:
    staged = replace(result(), measures=(replace(compared(), ours=STAGED),))

    assert plot.save(staged, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "plot.png").stat().st_size < 200_000
