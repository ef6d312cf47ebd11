"""JSON data, compared as data: the order of keys is nobody's business, numbers may differ in their last digits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mlvm.reproduce import text
from mlvm.reproduce.document import Likeness, Tolerance


def compare(stored: object, now: object, tolerance: Tolerance) -> Likeness:
    """Compare two documents."""
    reasons: dict[str, None] = {}
    why = next(_differences(stored, now, "", tolerance, reasons), "")
    return Likeness(same=not why, reasons=() if why else tuple(reasons), why=why)


def _differences(
    stored: Any, now: Any, path: str, tolerance: Tolerance, reasons: dict[str, None]
) -> Iterator[str]:
    where = path or "the document"
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in sorted(stored.keys() ^ now.keys(), key=str):
            yield f"{path}.{key}: {'gone' if key in stored else 'new'}"
        for key in sorted(stored.keys() & now.keys(), key=str):
            yield from _differences(stored[key], now[key], f"{path}.{key}", tolerance, reasons)
    elif isinstance(stored, list) and isinstance(now, list):
        if len(stored) != len(now):
            yield f"{where}: {len(stored)} entries are now {len(now)}"
        for index, (mine, theirs) in enumerate(zip(stored, now, strict=False)):
            yield from _differences(mine, theirs, f"{path}[{index}]", tolerance, reasons)
    elif isinstance(stored, str) and isinstance(now, str):
        found = text.compare(stored, now, tolerance)
        reasons.update(dict.fromkeys(found.reasons))
        if not found.same:
            yield f"{where}: {found.why}"
    elif _is_number(stored) and _is_number(now):
        if not _close(stored, now, tolerance, reasons):
            yield f"{where}: {stored} is now {now}"
    elif type(stored) is not type(now) or stored != now:
        yield f"{where}: {str(stored)[:60]} is now {str(now)[:60]}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _close(stored: float, now: float, tolerance: Tolerance, reasons: dict[str, None]) -> bool:
    if stored == now or (math.isnan(stored) and math.isnan(now)):
        return True
    if tolerance.strict or (isinstance(stored, int) and isinstance(now, int)):
        return False
    size = max(abs(stored), abs(now))
    if abs(stored - now) <= max(tolerance.relative * size, tolerance.absolute):
        reasons["last digits of numbers"] = None
        return True
    return False
