"""The notebook that a cell stands in, and the lock that may ride in it.

Kernels are not told which notebook they serve; some frontends tell them all the same: a Jupyter server in
JPY_SESSION_NAME, VS Code in a variable. Elsewhere `%mlvm up --from NOTEBOOK` names it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlvm.errors import LockError, MlvmError, SpecError
from mlvm.paths import Home
from mlvm.project import Project

#: So many differences between two locks are shown in a cell.
MOST_SHOWN = 8


def notebook_of(shell: Any) -> Path | None:
    """Return the file of the notebook that `shell` serves, if its frontend says so and it is there."""
    said = getattr(shell, "user_ns", {}).get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME", "")
    path = Path(str(said))
    return path if path.suffix == ".ipynb" and path.is_file() else None


def project_for(target: str | None, source: str | None, shell: Any) -> tuple[Project, bool, list[str]]:
    """Return the project that `%mlvm up` means, whether a notebook brought it, and what should be said of that.

    A notebook that brings a lock stands for its project where there is none. Where there is one, what the two locks
    have otherwise is said: the machine is then not the one that the notebook was made in.
    """
    home = Home.find()
    if source is not None:
        if target is not None:
            raise LockError(f"`{target}` and `--from` name two boxes", hint="name one of them")
        found = Project.carried_by(Path(source), home=home)
        if found is None:
            raise LockError(f"there is no lock in notebook `{source}`", hint=f"mlvm lock BOX --into {source}")
        return found, True, []
    path = notebook_of(shell)
    try:
        project = Project.find(target, Path.cwd(), home=home)
    except SpecError:
        found = Project.carried_by(path, home=home) if path and target is None else None
        if found is None:
            raise
        return found, True, [f"there is no project here: the lock in `{path}` is used"]
    return project, False, compared(path, project) if path else []


def compared(path: Path, project: Project) -> list[str]:
    """Say where the lock in a notebook and a project's own differ; nothing when there is none in it."""
    from mlvm.lock import carried  # noqa: PLC0415
    from mlvm.spec import ipynb  # noqa: PLC0415

    try:
        brought, lock = carried.find(ipynb.read(path)), project.lock()
    except MlvmError as broken:
        return [f"the lock in `{path.name}` is not compared: {broken.message}"]
    if brought is None or lock is None:
        return []
    lines = carried.differences(brought, lock)
    if not lines:
        return []
    more = [f"... and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
    return [
        f"this notebook was made with another lock than that of `{lock.name}`:",
        *lines[:MOST_SHOWN],
        *more,
        f"`%mlvm up --from {path.name}` brings up what it was made with; `mlvm lock --into` puts the other into it",
    ]
