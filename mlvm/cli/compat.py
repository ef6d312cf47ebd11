"""`mlvm compat`: the table of compatibility, shown, and replaced by a newer one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mlvm.cli.parser import Arguments
from mlvm.errors import LockError
from mlvm.lock import compatibility
from mlvm.lock.compatibility import Build, Table
from mlvm.paths import Home
from mlvm.terminal import table


def compat(arguments: Arguments) -> int:
    """Show the table that counts, or a framework of it; with `--use`, make a file the user's own table first."""
    home = Home.find()
    if arguments.use:
        taken = compatibility.use(Path(arguments.use), home, sha256=arguments.sha256)
        print(f"the table of {taken.date} is now in {home.data / compatibility.NAME}")
    elif arguments.sha256:
        raise LockError("`--sha256` goes with `--use FILE`", hint="mlvm compat --use FILE --sha256 DIGEST")
    found = compatibility.find(home)
    chosen = [arguments.framework] if arguments.framework else sorted(found.builds)
    if unknown := [name for name in chosen if name not in found.builds]:
        raise LockError(
            f"`{unknown[0]}` is not in the table of {found.date}",
            details="frameworks: " + ", ".join(sorted(found.builds)),
            hint="mlvm compat",
        )
    builds = [build for name in chosen for build in found.builds[name]]
    if arguments.json:
        print(json.dumps([_plain(build, found) for build in builds], indent=1))
        return 0
    rows = [tuple(_plain(build, found).values()) for build in builds]
    print(table(rows, header=("framework", "version", "extra", "python", "cuda", "cudnn", "driver", "gpu")))
    print(f"table of {found.date}: {found.path}; drivers from {found.drivers_source}")
    return 0


def _plain(build: Build, found: Table) -> dict[str, str]:
    """Return a build as texts; what is not known is `-`."""
    texts = {
        "framework": build.framework,
        "version": str(build.version),
        "extra": build.extra,
        "python": _span(python for python in build.pythons if not python.endswith("t")),
        "cuda": build.cuda if build.pinned or not build.wants else ", ".join(_minors(build, found)),
        "cudnn": build.cudnn,
        "driver": found.oldest_driver(build.cuda or f"{build.cuda_major}.0") or "",
        "gpu": build.lowest_arch,
    }
    return {key: text or "-" for key, text in texts.items()}


def _minors(build: Build, found: Table) -> list[str]:
    minors = {
        ".".join(release.split(".")[:2]): None
        for release in found.toolkits
        if found.goes_with(build, release)
    }
    return [_span(minors)] if minors else []


def _span(versions: Iterable[str]) -> str:
    every = list(versions)
    return every[0] if len(every) == 1 else f"{every[0]} to {every[-1]}" if every else ""
