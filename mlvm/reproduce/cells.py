"""A notebook beside its stored self: one verdict a code cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlvm.reproduce.document import CellReport, OutputReport, Tolerance, Verdict
from mlvm.reproduce.outputs import compare

#: Tags of cells whose outputs are not to be compared; the second is nbval's.
IGNORED = frozenset({"ignore-output", "nbval-ignore-output"})

#: A tag of cells that nbclient does not run.
SKIPPED = "skip-execution"

Cell = Mapping[str, Any]


def code_cells(content: Mapping[str, Any]) -> list[Cell]:
    """Return the code cells of a notebook's document."""
    return [cell for cell in content["cells"] if cell.get("cell_type") == "code"]


def judge(
    stored: Sequence[Cell],
    now: Sequence[Cell],
    *,
    ran: Mapping[int, float],
    stopped: str,
    tolerance: Tolerance,
) -> Iterator[CellReport]:
    """Yield a report a cell.

    `ran` are the seconds of those that ran to their end, by index; `stopped` says why others did not.
    """
    blamed = False
    for index, (before, after) in enumerate(zip(stored, now, strict=True)):
        number, source = index + 1, _text(before.get("source", ""))
        name = str(before.get("id") or f"cell {number}")
        common: dict[str, Any] = {"number": number, "id": name, "source": source, "seconds": ran.get(index)}
        if SKIPPED in _tags(before):
            yield CellReport(**common, verdict=Verdict.NOT_COMPARED, why="its tags say that it is not run")
        elif index in ran or not source.strip():
            yield _judged(before, after, tolerance, common)
        elif not blamed and stopped:
            blamed = True
            yield CellReport(**common, verdict=Verdict.FAILED, why=stopped)
        else:
            yield CellReport(**common, verdict=Verdict.NOT_RUN, why="the run ended before it")


def _judged(before: Cell, after: Cell, tolerance: Tolerance, common: dict[str, Any]) -> CellReport:
    reports = tuple(compare(before.get("outputs", ()), after.get("outputs", ()), tolerance))
    failed = next((one for one in reports if one.form == "error" and not one.stored), None)
    if failed is not None:
        return CellReport(**common, verdict=Verdict.FAILED, why=failed.now, outputs=reports)
    if IGNORED & _tags(before):
        return CellReport(**common, verdict=Verdict.NOT_COMPARED, why="its tags say so")
    if before.get("execution_count") is None and not before.get("outputs"):
        why = "the notebook has no output of it" if reports else ""
        return CellReport(
            **common, verdict=Verdict.NOT_STORED if reports else Verdict.IDENTICAL, why=why, outputs=reports
        )
    return _compared(reports, common)


def _compared(reports: tuple[OutputReport, ...], common: dict[str, Any]) -> CellReport:
    reasons = tuple(dict.fromkeys(reason for one in reports for reason in one.reasons))
    wrong = [one for one in reports if not one.same]
    if wrong:
        why = f"{wrong[0].form}: {wrong[0].why}"
        return CellReport(**common, verdict=Verdict.DIFFERENT, why=why, outputs=reports)
    verdict = Verdict.EQUAL if reasons else Verdict.IDENTICAL
    return CellReport(**common, verdict=verdict, reasons=reasons, outputs=reports)


def _tags(cell: Cell) -> set[str]:
    return set(map(str, cell.get("metadata", {}).get("tags", ())))


def _text(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value)
