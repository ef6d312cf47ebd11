"""One check of a host, as frozen data: what `doctor` and `gpu` find."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    """How a check came out; `warn` means slower or smaller, `fail` that something will not work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check: what was found, and the one command that mends it (empty when nothing needs mending)."""

    name: str
    grade: Grade
    found: str
    mend: str = ""
