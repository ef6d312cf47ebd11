"""Complaints: what is wrong with a document, where, and under which path.

A person who made three mistakes wants to hear of three, so readers do not stop at the first: they tell a `Report`
and go on with what they have. A `Place` is the report together with the path read so far; it is handed down from
reader to reader, so that each complaint knows `machine.memory` without any reader knowing who called it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlvm.errors import SpecError

#: More complaints than this are counted, not shown.
MOST_SHOWN = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A position in a file; lines and columns count from 1, as editors do."""

    file: str
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def right(self, columns: int) -> Mark:
        """Return the mark `columns` further on the same line."""
        return Mark(file=self.file, line=self.line, column=self.column + columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Complaint:
    """One thing that is wrong."""

    mark: Mark
    path: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.mark), self.path, self.text) if part)


@dataclass(slots=True)
class Report:
    """Everything there is to complain of, in any number of files, and things worth a note."""

    complaints: list[Complaint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, file: str) -> None:
        """Raise SpecError with every complaint, sorted by place (those of `file` first), if there is any."""
        if not self.complaints:
            return
        found = sorted(
            dict.fromkeys(self.complaints),
            key=lambda c: (c.mark.file != file, c.mark.file, c.mark.line, c.mark.column),
        )
        lines = [str(complaint) for complaint in found[:MOST_SHOWN]]
        if len(found) > MOST_SHOWN:
            lines.append(f"... and {len(found) - MOST_SHOWN} more")
        raise SpecError(f"`{file}` cannot be read as a spec", details="\n".join(lines))


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a reader stands: the report it tells, and the path of what it reads."""

    report: Report
    path: str = ""

    def below(self, key: str | int) -> Place:
        """Return the place of a field or of an entry of a list."""
        if isinstance(key, int):
            return Place(report=self.report, path=f"{self.path}[{key}]")
        return Place(report=self.report, path=f"{self.path}.{shown(key)}" if self.path else shown(key))

    def complain(self, mark: Mark, text: str) -> None:
        """Report `text` at `mark`, under this place's path."""
        self.report.complaints.append(Complaint(mark=mark, path=self.path, text=text))


def shown(text: str, limit: int = 60) -> str:
    """Return `text` fit for one line of a message: shortened, and nothing in it that a terminal would obey."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
