"""Fresh or stale: every reason, in words."""

from __future__ import annotations

from dataclasses import replace

import lock_sample as sample
import pytest

from mlvm.lock.fresh import stale_reasons


def test_a_lock_of_its_spec_is_fresh() -> None:
    assert stale_reasons(sample.spec(), sample.lock()) == []


@pytest.mark.parametrize(
    ("spec", "reasons"),
    [
        ({"packages": ("numpy>=2", "scipy")}, ["packages: `scipy` was added"]),
        ({"packages": ()}, ["packages: `numpy>=2` was removed"]),
        ({"packages": ("numpy>=2.1",)}, ["packages: `numpy>=2` is now `numpy>=2.1`"]),
        (
            {"packages": ("numpy>=2", "numpy<3")},
            ["packages: `numpy<3` was added"],
        ),
        (
            {"packages": ("attrs", "scipy", "zict")},
            [
                "packages: `attrs` was added",
                "packages: `numpy>=2` was removed",
                "packages: `scipy` was added",
                "packages: `zict` was added",
            ],
        ),
        ({"debian": "trixie", "python": "3.13"}, ["debian: bookworm -> trixie", "python: 3.11 -> 3.13"]),
        ({"name": "other"}, ["name: sample -> other"]),
    ],
)
def test_each_change_of_the_spec_is_a_reason(spec: dict[str, object], reasons: list[str]) -> None:
    assert stale_reasons(sample.spec(**spec), sample.lock()) == reasons


@pytest.mark.parametrize("packages", [("numpy >= 2",), ("numpy>=2",)])
def test_another_spelling_is_not_a_change(packages: tuple[str, ...]) -> None:
    assert stale_reasons(sample.spec(packages=packages), sample.lock()) == []


def test_another_order_is_not_a_change() -> None:
    inputs = {**sample.lock().inputs, "packages": ["scipy", "numpy>=2"]}

    assert stale_reasons(sample.spec(packages=("numpy>=2", "scipy")), sample.lock(inputs=inputs)) == []


def test_what_does_not_decide_the_lock_may_change() -> None:
    spec = sample.spec(network="none", env={"A": "1"})

    assert stale_reasons(spec, sample.lock()) == []


def test_an_input_that_this_version_does_not_know() -> None:
    lock = sample.lock(inputs={**sample.lock().inputs, "cuda": "12.4"})

    assert stale_reasons(sample.spec(), lock) == ["cuda: 12.4 -> nothing"]


def test_a_lock_from_before_a_tool_was_needed() -> None:
    lock = sample.lock()
    lock = replace(lock, tools=tuple(package for package in lock.tools if package.name != "kmod"))

    assert stale_reasons(sample.spec(), lock) == ["tools: `kmod` is missing, and this mlvm needs it"]


def test_garbage_among_the_locked_requirements_is_only_another_change() -> None:
    lock = sample.lock(inputs={**sample.lock().inputs, "packages": ["a b c"]})

    assert stale_reasons(sample.spec(), lock) == [
        "packages: `a b c` was removed",
        "packages: `numpy>=2` was added",
    ]
