"""Small wheels, friendly and hostile."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

INFO = "sample-1.0.dist-info"
RECORD = f"{INFO}/RECORD"


def written(
    folder: Path,
    files: Mapping[str, bytes | str],
    *,
    record: bool = True,
    modes: Mapping[str, int] | None = None,
    twice: str | None = None,
) -> Path:
    """Write a wheel with these files and return its path."""
    path = folder / "sample-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        names = [*files, *([twice] if twice else [])]
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            content = files[name]
            archive.writestr(info, content.encode() if isinstance(content, str) else content)
        if record:
            rows = "".join(f"{name},sha256=x,{len(content)}\n" for name, content in files.items())
            archive.writestr(RECORD, rows + f"{RECORD},,\n")
    return path
