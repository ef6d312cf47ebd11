"""What a comparison says: of two outputs, of a cell, of a notebook.

Nothing is equal for reasons that are not shown: whatever was looked past (an address, a time, the last digits of a
number) is named where it was needed, and only there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Verdict(StrEnum):
    """What came of a cell, the worst last."""

    IDENTICAL = "identical"
    EQUAL = "equal"
    NOT_STORED = "not stored"  # it ran, and the notebook has nothing to compare with
    NOT_COMPARED = "not compared"  # its tags say so
    DIFFERENT = "different"
    FAILED = "failed"
    NOT_RUN = "not run"


class Outcome(StrEnum):
    """What came of a notebook."""

    EQUAL = "equal"
    DIFFERENT = "different"
    FAILED = "failed"


#: Exit codes of `mlvm reproduce`.
EXIT_CODES = {Outcome.EQUAL: 0, Outcome.DIFFERENT: 1, Outcome.FAILED: 11}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How unlike two outputs may be. `strict`: not at all. `picture` is a distance of 0 to 1 (see `pictures`)."""

    relative: float = 1e-5
    absolute: float = 1e-8
    picture: float = 0.12
    strict: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Likeness:
    """Whether two things are alike; `reasons` are what had to be looked past, `why` what is different."""

    same: bool
    reasons: tuple[str, ...] = ()
    why: str = ""


IDENTICAL = Likeness(same=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputReport:
    """One output beside its stored one; `form` is a kind of stream or a MIME type, the texts are what is shown of them.

    A picture is a `data:` URI.
    """

    form: str
    same: bool
    reasons: tuple[str, ...] = ()
    why: str = ""
    stored: str = ""
    now: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class CellReport:
    """One code cell; `number` counts code cells from 1."""

    number: int
    id: str
    source: str
    verdict: Verdict
    why: str = ""
    reasons: tuple[str, ...] = ()
    outputs: tuple[OutputReport, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A notebook run again. `box`, `machine` and `lock_sha256` are what it ran in."""

    notebook: str
    outcome: Outcome
    box: str
    machine: str
    lock_sha256: str
    mlvm: str
    began: str
    seconds: float
    tolerance: Tolerance
    cells: tuple[CellReport, ...]
    notes: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)


def outcome_of(cells: tuple[CellReport, ...]) -> Outcome:
    """Return what a notebook's cells come to."""
    found = {cell.verdict for cell in cells}
    if found & {Verdict.FAILED, Verdict.NOT_RUN}:
        return Outcome.FAILED
    return Outcome.DIFFERENT if Verdict.DIFFERENT in found else Outcome.EQUAL
