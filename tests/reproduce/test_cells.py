"""Verdicts: of cells, and of the notebook that has them."""

from __future__ import annotations

from typing import Any

import pytest

from mlvm.reproduce.cells import judge
from mlvm.reproduce.document import EXIT_CODES, CellReport, Outcome, Tolerance, Verdict, outcome_of

ERROR = {"output_type": "error", "ename": "E", "evalue": "x", "traceback": []}


def cell(text: str = "", *, source: str = "x", tags: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    outputs = [{"output_type": "stream", "name": "stdout", "text": text}] if text else []
    made = {"cell_type": "code", "id": "a", "source": source, "metadata": {"tags": list(tags)}}
    return {**made, "execution_count": 1, "outputs": outputs, **more}


def judged(stored: dict[str, Any], now: dict[str, Any]) -> CellReport:
    (found,) = judge([stored], [now], ran={0: 0.5}, stopped="", tolerance=Tolerance())
    return found


@pytest.mark.parametrize(
    ("stored", "now", "verdict", "why"),
    [
        (cell("1"), cell("1"), Verdict.IDENTICAL, ""),
        (cell("1.5"), cell("1.50"), Verdict.EQUAL, ""),
        (cell("1"), cell("2"), Verdict.DIFFERENT, "stdout: 1 is now 2"),
        (cell("1"), cell(outputs=[ERROR]), Verdict.FAILED, "E: x"),
        (cell(outputs=[ERROR]), cell(outputs=[ERROR]), Verdict.IDENTICAL, ""),
        (cell(outputs=[ERROR]), cell("1"), Verdict.DIFFERENT, "stdout: stdout is new"),
        (cell(execution_count=None), cell("1"), Verdict.NOT_STORED, "the notebook has no output of it"),
        (cell(execution_count=None), cell(), Verdict.IDENTICAL, ""),
        (cell(), cell("1"), Verdict.DIFFERENT, "stdout: stdout is new"),
        (cell("1", tags=("ignore-output",)), cell("2"), Verdict.NOT_COMPARED, "its tags say so"),
        (cell("1", tags=("nbval-ignore-output",)), cell("2"), Verdict.NOT_COMPARED, "its tags say so"),
        (cell("1", tags=("ignore-output",)), cell(outputs=[ERROR]), Verdict.FAILED, "E: x"),
    ],
)
def test_verdicts(stored: dict[str, Any], now: dict[str, Any], verdict: Verdict, why: str) -> None:
    found = judged(stored, now)

    assert (found.verdict, found.why) == (verdict, why)


def test_a_cell_that_is_equal_says_why_it_is_not_identical() -> None:
    assert judged(cell("1.5"), cell("1.50")).reasons == ("how numbers are written",)


def test_a_run_that_ended_early() -> None:
    """The first cell that did not end is to blame; an empty one is not run anyway, one that is skipped neither."""
    stored = [
        cell("1"),
        cell("2"),
        cell(source=""),
        cell("3"),
        cell(source="x", tags=("skip-execution",)),
    ]

    found = list(judge(stored, stored, ran={0: 0.1}, stopped="the kernel died", tolerance=Tolerance()))

    assert [one.verdict for one in found] == [
        Verdict.IDENTICAL, Verdict.FAILED, Verdict.IDENTICAL, Verdict.NOT_RUN, Verdict.NOT_COMPARED
    ]  # fmt: skip
    assert found[1].why == "the kernel died"


@pytest.mark.parametrize(
    ("verdicts", "outcome", "code"),
    [
        ((), Outcome.EQUAL, 0),
        ((Verdict.IDENTICAL, Verdict.EQUAL, Verdict.NOT_STORED), Outcome.EQUAL, 0),
        ((Verdict.IDENTICAL, Verdict.DIFFERENT), Outcome.DIFFERENT, 1),
        ((Verdict.DIFFERENT, Verdict.FAILED), Outcome.FAILED, 11),
        ((Verdict.NOT_RUN,), Outcome.FAILED, 11),
    ],
)
def test_outcomes(verdicts: tuple[Verdict, ...], outcome: Outcome, code: int) -> None:
    found = outcome_of(tuple(CellReport(number=1, id="a", source="", verdict=one) for one in verdicts))

    assert (found, EXIT_CODES[found]) == (outcome, code)
