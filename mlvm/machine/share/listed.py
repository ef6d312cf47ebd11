"""Which folders of the host a machine has, kept in `shares.json` of its folder.

Each has a number that is never given again, since handles in a snapshot's guest may still hold it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from mlvm.files import write_whole

LIST = "shares.json"
#: A handle holds the number in one byte.
MOST = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """A folder of the host, and where it is in the guest."""

    number: int
    folder: str
    at: str
    write: bool


def load(path: Path) -> list[Shared]:
    """Read a list; an empty one when there is none, or nothing that can be read."""
    try:
        document = json.loads(path.read_text())
        return [Shared(**one) for one in document["shares"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def save(path: Path, shares: Iterable[Shared]) -> None:
    """Write a list."""
    shares = list(shares)
    following = max([next_number(path), *(one.number + 1 for one in shares)])
    document = {"next": following, "shares": [asdict(one) for one in shares]}
    write_whole(path, json.dumps(document, indent=1) + "\n", mode=0o600)


def next_number(path: Path) -> int:
    """Return the number that the next folder gets."""
    try:
        return int(json.loads(path.read_text())["next"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
