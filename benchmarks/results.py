"""Results on disk: one JSON file a part and day, with a plot beside it where a part has stages."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks.measures import Result, from_document, to_document
from mlvm.files import write_whole

FOLDER = Path(__file__).parent / "results"
_NAME = re.compile(r"\d{4}-\d\d-\d\d-([a-z]+)\.json")


def path_of(result: Result, folder: Path) -> Path:
    """Where a result is kept; another one of the same day takes its place."""
    return folder / f"{result.date[:10]}-{result.part}.json"


def save(result: Result, folder: Path) -> Path:
    """Write a result and return where."""
    path = path_of(result, folder)
    write_whole(path, json.dumps(to_document(result), indent=1) + "\n")
    return path


def newest(folder: Path = FOLDER) -> dict[str, Path]:
    """Return the newest result of each part."""
    found = sorted(path for path in folder.glob("*.json") if _NAME.fullmatch(path.name))
    return {match[1]: path for path in found if (match := _NAME.fullmatch(path.name))}


def load(path: Path) -> Result:
    """Read a result."""
    return from_document(json.loads(path.read_text()))
