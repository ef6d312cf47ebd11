"""Two texts, compared as a person would: what never comes out the same twice is looked past, and said.

Each `Look` knows one such thing (an address in memory, a time, a progress bar). All are taken at first; when the texts
are alike then, each is left out in turn, and those without which they would differ are the reasons. Numbers come last:
a whole number must be the same, of one with a point or an exponent the last digits may differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlvm.reproduce.document import IDENTICAL, Likeness, Tolerance

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_BAR = re.compile(r"(?m)^[^\n|]{0,200}\d{1,3}%\|[^\n|]{0,400}\|[^\n]*\n?")
_SMALL_BAR = re.compile(r"\[[=>.#\- ]{5,}\]|[━█▏▎▍▌▋▊▉╸╺]{5,}")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,16}\b")
_CELL = re.compile(r"<ipython-input-\d+-[0-9a-f]+>|(?:/[\w.~+-]+)*/ipykernel_\d+/\d+\.py")
_MOMENT = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?\b")
_CLOCK = re.compile(r"\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?(?: ?[AaPp][Mm])?\b")
_NUMBER_OF = r"(?<![\w.])\d+(?:[.,]\d+)*"
_UNIT = r"(?:ns|µs|μs|us|ms|s|sec|secs|seconds?|min|mins|minutes?|h|hours?)"
_SPAN = re.compile(
    rf"{_NUMBER_OF} ?{_UNIT}(?![\w])(?:/\w+)?|{_NUMBER_OF} ?(?:it|\w{{1,12}})/s\b|{_NUMBER_OF} loops?\b"
)
_UNIX_PATH = re.compile(r"(?<![\w/:.])(?:~|\.\.?)?(?:/[\w.@+~-]+)+/(?=[\w.@+~-])")
_WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:\\(?:[^\\\s\"'<>|]+\\)*")
_UUID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b|\b[0-9a-f]{32}\b")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?!\w|\.\w)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One thing to look past: its name, and the text without it."""

    name: str
    past: Callable[[str], str]


def _replacing(pattern: re.Pattern[str], by: str) -> Callable[[str], str]:
    return lambda text: pattern.sub(by, text)


def as_on_a_terminal(text: str) -> str:
    """Return what is left on a terminal when carriage returns and backspaces have been obeyed."""
    if "\r" not in text and "\b" not in text:
        return text
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        while "\b" in shown.lstrip("\b"):
            shown = re.sub(r"[^\b]\x08", "", shown)
        lines.append(shown.lstrip("\b"))
    return "\n".join(lines)


def _spans(text: str) -> str:
    return _SPAN.sub("<time>", _CLOCK.sub("<time>", _MOMENT.sub("<time>", text)))


def _paths(text: str) -> str:
    return _WINDOWS_PATH.sub("<path>/", _UNIX_PATH.sub("<path>/", text))


#: In the order in which they are taken: what one leaves behind may be another's.
LOOKS = (
    Look(name="lines written over", past=as_on_a_terminal),
    Look(name="colours", past=_replacing(_ESCAPES, "")),
    Look(name="progress bars", past=lambda text: _SMALL_BAR.sub("[bar]", _BAR.sub("", text))),
    Look(name="names of cells", past=_replacing(_CELL, "<cell>")),
    Look(name="addresses", past=_replacing(_ADDRESS, "0x...")),
    Look(name="random ids", past=_replacing(_UUID, "<id>")),
    Look(name="times", past=_spans),
    Look(name="paths", past=_paths),
)


def compare(
    stored: str,
    now: str,
    tolerance: Tolerance,
    *,
    looks: Sequence[Look] = LOOKS,
    reasons: tuple[str, ...] = (),
) -> Likeness:
    """Compare two texts; `reasons` are what has been looked past already."""
    if stored == now:
        return Likeness(same=True, reasons=reasons)
    if tolerance.strict:
        return Likeness(same=False, reasons=reasons, why=first_difference(stored, now))
    alike = _alike(stored, now, looks, tolerance)
    if not alike.same:
        return Likeness(same=False, reasons=reasons, why=alike.why)
    needed = list(looks)
    for look in looks:
        fewer = [one for one in needed if one is not look]
        if (without := _alike(stored, now, fewer, tolerance)).same:
            needed, alike = fewer, without
    return Likeness(same=True, reasons=(*reasons, *(look.name for look in needed), *alike.reasons))


def numbers_alike(stored: str, now: str, tolerance: Tolerance) -> Likeness:
    """Compare texts that may differ in the last digits of numbers, and in the space between words then."""
    if stored == now:
        return IDENTICAL
    between, ours = _NUMBER.split(stored), _NUMBER.split(now)
    if [part.split() for part in between] != [part.split() for part in ours]:
        return Likeness(same=False, why=first_difference(stored, now))
    largest = 0.0
    for before, after in zip(_NUMBER.findall(stored), _NUMBER.findall(now), strict=True):
        off = number_off(before, after, tolerance)
        if off is None:
            return Likeness(same=False, why=f"{before} is now {after}")
        largest = max(largest, off)
    if largest == 0.0:
        written = _NUMBER.findall(stored) != _NUMBER.findall(now)
        return Likeness(same=True, reasons=("how numbers are written" if written else "space between words",))
    return Likeness(same=True, reasons=(f"last digits of numbers (relative difference up to {largest:.1e})",))


def number_off(stored: str, now: str, tolerance: Tolerance) -> float | None:
    """Return how far apart two numbers are, relatively, or None when that is too far. Whole numbers are exact."""
    if stored == now:
        return 0.0
    if not re.search(r"[.eE]", stored + now):
        return 0.0 if int(stored) == int(now) else None
    before, after = float(stored), float(now)
    if before == after:
        return 0.0
    size = max(abs(before), abs(after))
    apart = abs(before - after)
    return apart / size if apart <= max(tolerance.relative * size, tolerance.absolute) else None


def first_difference(stored: str, now: str) -> str:
    """Say where two texts differ first, in one line."""
    before, after = stored.splitlines(), now.splitlines()
    for number, (mine, theirs) in enumerate(zip(before, after, strict=False), start=1):
        if mine != theirs:
            return f"line {number}: `{_short(mine, theirs)}` is now `{_short(theirs, mine)}`"
    if len(before) != len(after):
        return f"{len(before)} lines are now {len(after)}"
    return "the ends of lines differ"


def _short(line: str, other: str, most: int = 60) -> str:
    """Return the part of a line around where another begins to differ."""
    start = next(
        (i for i, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), min(len(line), len(other))
    )
    start = max(0, start - most // 2) if len(line) > most else 0
    shown = line[start : start + most]
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)
    return ("..." if start else "") + shown + ("..." if start + most < len(line) else "")


def _alike(stored: str, now: str, looks: Sequence[Look], tolerance: Tolerance) -> Likeness:
    for look in looks:
        stored, now = look.past(stored), look.past(now)
    return numbers_alike(stored, now, tolerance)
