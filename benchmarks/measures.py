"""What is measured, and what it comes to: frozen data, medians and ratios. Nothing here runs or reads anything.

A measure sets our samples beside those of a baseline from the same run, because seconds alone say as much about the
host as about us. A bar is what was promised: a limit for our median, or for its ratio to the baseline's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A promise: the median of "ours" (or the "ratio") is at most `limit`, or at least, where more is better."""

    of: str
    limit: float
    at_least: bool = False

    def is_met(self, value: float) -> bool:
        """Tell whether `value` keeps the promise."""
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Samples of one contestant; `stages` are the parts of each sample, in order, where it has parts."""

    name: str
    samples: tuple[float, ...]
    stages: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.samples)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One comparison. `name` is a few words, the thing measured first; `unit` one of "s", "ms", "MB", "MB/s"."""

    name: str
    unit: str
    ours: Series
    baseline: Series
    bar: Bar | None = None

    @property
    def ratio(self) -> float:
        """Our median in terms of the baseline's."""
        return self.ours.median / self.baseline.median

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        if self.bar is None:
            return None
        return self.bar.is_met(self.ratio if self.bar.of == "ratio" else self.ours.median)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One run of one part: when, of which mlvm, on which machine, how loaded at each round, and the samples."""

    part: str
    date: str
    commit: str
    machine: Mapping[str, Any]
    loads: tuple[float, ...]
    measures: tuple[Measure, ...]
    notes: tuple[str, ...] = ()


def to_document(result: Result) -> dict[str, Any]:
    """Return what is written as JSON; samples keep four digits behind the point."""
    return {
        "version": VERSION,
        "part": result.part,
        "date": result.date,
        "commit": result.commit,
        "machine": dict(result.machine),
        "loads": list(result.loads),
        "notes": list(result.notes),
        "measures": [
            {
                "name": measure.name,
                "unit": measure.unit,
                "bar": None
                if measure.bar is None
                else {"of": measure.bar.of, "limit": measure.bar.limit, "at_least": measure.bar.at_least},
                "ours": _series_document(measure.ours),
                "baseline": _series_document(measure.baseline),
            }
            for measure in result.measures
        ],
    }


def from_document(document: Mapping[str, Any]) -> Result:
    """Return the result that `to_document` was given. Raises ValueError for another version's."""
    if document["version"] != VERSION:
        raise ValueError(f"a result of version {document['version']}, not {VERSION}")
    return Result(
        part=document["part"],
        date=document["date"],
        commit=document["commit"],
        machine=document["machine"],
        loads=tuple(document["loads"]),
        notes=tuple(document["notes"]),
        measures=tuple(
            Measure(
                name=one["name"],
                unit=one["unit"],
                bar=Bar(**one["bar"]) if one["bar"] else None,
                ours=_series(one["ours"]),
                baseline=_series(one["baseline"]),
            )
            for one in document["measures"]
        ),
    )


def _series_document(series: Series) -> dict[str, Any]:
    return {
        "name": series.name,
        "samples": [round(sample, 4) for sample in series.samples],
        "stages": {name: [round(one, 4) for one in samples] for name, samples in series.stages.items()},
    }


def _series(document: Mapping[str, Any]) -> Series:
    return Series(
        name=document["name"],
        samples=tuple(document["samples"]),
        stages={name: tuple(samples) for name, samples in document["stages"].items()},
    )
