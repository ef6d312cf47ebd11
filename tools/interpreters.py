"""Make mlvm/lock/interpreters.json: which Pythons there are besides Debian's, each with its place and its digest.

They are the builds of the project python-build-standalone for x86_64 and glibc, the newest of each minor version, free-
threaded ones apart. The table of all its releases is in the PyPI package `pbs-installer`, made from the project's own
lists of digests; a wheel of it is what this script reads. It is not a dependency: its other half downloads and
installs, which is done here by `download` and the image builder, and this half is a few kilobytes a year.

    pip download --no-deps pbs-installer
    .venv/bin/python tools/interpreters.py pbs_installer-*.whl
"""

from __future__ import annotations

import json
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packaging.utils import parse_wheel_filename

from mlvm.lock.interpreters import BASE, NAME
from mlvm.spec.document import PYTHONS

TARGET = Path(__file__).parent.parent / "mlvm" / "lock" / NAME


def main(wheel: Path) -> None:
    """Read the package's table, write ours."""
    version = parse_wheel_filename(wheel.name)[1]
    with zipfile.ZipFile(wheel) as archive:
        listed = json.loads(archive.read("pbs_installer/versions.json"))
    found = {python: newest(python, listed) for python in PYTHONS}
    table = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "source": f"pbs-installer {version} on PyPI, versions.json",
        "pythons": found,
    }
    TARGET.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{TARGET}: {', '.join(row['version'] for row in found.values())}")


def newest(python: str, listed: list[dict[str, Any]]) -> dict[str, str]:
    """Return the newest build of one Python: version, place below BASE, digest."""
    best: tuple[tuple[int, str], dict[str, str]] | None = None
    for entry in listed:
        version = entry["python_version"]
        name = f"{version['major']}.{version['minor']}{'t' if version['freethreaded'] else ''}"
        if version["implementation"] != "cpython" or name != python:
            continue
        for file in entry["files"]:
            wanted = (file["platform"], file["arch"], file["install_only"]) == ("linux", "x86_64", True)
            if not wanted or not file["sha256"] or "-linux-gnu-" not in file["filename"]:
                continue
            if not file["url"].startswith(BASE + "/") or not file["filename"].endswith(".tar.gz"):
                continue
            path = file["url"].removeprefix(BASE + "/")
            full = f"{version['major']}.{version['minor']}.{version['micro']}"
            row = {"version": full, "path": path, "sha256": file["sha256"]}
            rank = (version["micro"], path)
            if best is None or rank > best[0]:
                best = (rank, row)
    if best is None:
        raise SystemExit(f"no build of Python {python} in the table")
    return best[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
