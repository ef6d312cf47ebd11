"""`mlvm capture`: a spec and a lock from what is there already."""

from __future__ import annotations

from pathlib import Path

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import observing
from mlvm.errors import ResolveError, SpecError
from mlvm.files import write_whole
from mlvm.paths import LOCK_NAME, SPEC_NAME, Home
from mlvm.project import Project
from mlvm.terminal import printable


def capture(arguments: Arguments) -> int:
    """Write a spec, and lock it unless told otherwise; say what could not be pinned."""
    from mlvm.spec.capture import source
    from mlvm.spec.capture.found import draft_of

    folder = Path.cwd()
    target = folder / SPEC_NAME
    if target.exists() and not (arguments.force or arguments.stdout):
        raise SpecError(
            f"`{target}` is there already", hint="mlvm capture --force, or --stdout to look first"
        )
    path = Path(arguments.source) if arguments.source else None
    text, left = draft_of(source.read(path, arguments.python, folder), folder)
    if arguments.stdout:
        print(text, end="")
        return 0
    write_whole(target, text)
    print(f"wrote {target}")
    for line in left:
        print(f"not pinned: {printable(line)}")
    if arguments.no_lock:
        print("next: mlvm lock")
        return 0
    return _lock(Project(folder=folder, home=Home.find()), arguments.progress)


def _lock(project: Project, progress: str) -> int:
    with observing(progress) as observer:
        try:
            _, lock = project.relock(observer=observer)
        except ResolveError as failed:
            raise ResolveError(
                failed.message,
                details=failed.details,
                hint=f"{failed.hint + '; ' if failed.hint else ''}loosen what cannot be had in {SPEC_NAME}, "
                "which is written, then `mlvm lock`",
            ) from None
    print(f"wrote {project.folder / LOCK_NAME}: {len(lock.python.packages)} Python packages")
    print("next: mlvm up")
    return 0
