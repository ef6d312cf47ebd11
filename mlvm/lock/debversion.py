"""The order of Debian versions, as dpkg has it: epoch, upstream version, revision.

Only to tell people an upgrade from a downgrade; which version is taken is apt's decision.
"""

from __future__ import annotations

import re

#: One run of characters that are no digits, as ranks, and the number after it.
Part = tuple[tuple[int, ...], int]
END: Part = ((0,), 0)


def version_key(version: str) -> tuple[int, tuple[Part, ...], tuple[Part, ...]]:
    """Return a key that sorts as `dpkg --compare-versions` does."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, ""
    return int(epoch), _parts(upstream), _parts(revision)


def _parts(text: str) -> tuple[Part, ...]:
    """`~` sorts before the end of a part, letters before all other characters; numbers count as numbers."""
    parts: list[Part] = [
        ((*map(_rank, letters), 0), int(digits or 0)) for letters, digits in re.findall(r"(\D*)(\d*)", text)
    ]
    # The first part may be that of nothing, "", and still be followed by others: every text has one.
    while len(parts) > 1 and parts[-1] == END:
        parts.pop()
    return (*parts, END)


def _rank(character: str) -> int:
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256
