"""Medians, ratios and bars; results survive being written; contestants take turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import results
from benchmarks.bench import Bench, in_turn
from benchmarks.host import cpu_model
from benchmarks.measures import Bar, Measure, Result, Series, from_document, to_document
from mlvm.paths import Home


def series(name: str, *samples: float) -> Series:
    return Series(name=name, samples=samples)


def compared(*, bar: Bar | None = None, ours: float = 2.0, theirs: float = 8.0) -> Measure:
    return Measure(
        name="x", unit="s", ours=series("mlvm", 9.0, ours, 1.0), baseline=series("old", theirs), bar=bar
    )


def result(part: str = "build", date: str = "2026-01-02T03:04:05+00:00") -> Result:
    return Result(
        part=part,
        date=date,
        commit="0123456789abcdef",
        machine={
            "cpu": "Z80", "cores": 1, "memory_gib": 0.5, "system": "CP/M", "qemu": "7.2", "python": "3.11"
        },
        loads=(0.5, 1.5),
        measures=(compared(bar=Bar(of="ours", limit=3)),),
        notes=("one",),
    )  # fmt: skip


def test_the_ratio_is_of_medians() -> None:
    assert compared().ratio == 0.25


@pytest.mark.parametrize(
    ("bar", "met"),
    [
        (Bar(of="ours", limit=2.0), True),
        (Bar(of="ours", limit=1.9), False),
        (Bar(of="ratio", limit=0.25), True),
        (Bar(of="ratio", limit=0.24), False),
        (Bar(of="ratio", limit=0.25, at_least=True), True),
        (Bar(of="ratio", limit=0.26, at_least=True), False),
        (None, None),
    ],
)
def test_a_bar_is_met_or_missed(bar: Bar | None, met: bool | None) -> None:
    assert compared(bar=bar).met is met


@given(st.lists(st.floats(min_value=1e-6, max_value=1e6), min_size=1, max_size=9))
def test_a_median_lies_between_its_samples(samples: list[float]) -> None:
    found = series("any", *samples)

    assert min(samples) <= found.median <= max(samples)


def test_a_result_survives_its_document() -> None:
    one = result()

    assert from_document(json.loads(json.dumps(to_document(one)))) == one


def test_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="a result of version 99, not 1"):
        from_document({**to_document(result()), "version": 99})


def test_the_newest_result_of_each_part(tmp_path: Path) -> None:
    for date in ("2026-03-01T00:00:00", "2026-11-01T00:00:00", "2026-04-01T00:00:00"):
        results.save(result("build", date), tmp_path)
    only = results.save(result("cli", "2026-01-01T00:00:00"), tmp_path)
    (tmp_path / "notes.json").write_text("{}")

    assert results.newest(tmp_path) == {"build": tmp_path / "2026-11-01-build.json", "cli": only}
    assert results.load(only) == result("cli", "2026-01-01T00:00:00")


def test_turns_are_reversed_every_second_round() -> None:
    assert [in_turn("abc", number) for number in range(3)] == [
        ("a", "b", "c"),
        ("c", "b", "a"),
        ("a", "b", "c"),
    ]


def test_everybody_gets_as_many_turns_as_there_are_runs(tmp_path: Path, home: Home) -> None:
    order: list[str] = []
    bench = Bench(runs=3, home=home, folder=tmp_path, say=lambda text: None)

    answers = bench.rounds({name: lambda name=name: order.append(name) or len(order) for name in "ab"})

    assert order == ["a", "b", "b", "a", "a", "b"]
    assert answers == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert len(bench.loads) == 3


def test_no_round_begins_after_the_deadline(tmp_path: Path, home: Home) -> None:
    bench = Bench(runs=3, home=home, folder=tmp_path, say=lambda text: None, deadline=0.0)

    assert bench.rounds({"a": lambda: 1, "b": lambda: 2}) == {"a": [1], "b": [2]}


def test_cpu_model() -> None:
    assert cpu_model("processor\t: 0\nmodel name\t: Some  CPU @ 2 GHz\n") == "Some CPU @ 2 GHz"
