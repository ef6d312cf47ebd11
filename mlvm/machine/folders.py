"""Which folders a machine shall have, and where a folder of the host is inside it.

A spec's `share` says it. Without one it is the project's folder, to read and write, at /work/NAME: what a notebook
imports and opens is there. A shipped box lies inside the installed package and nobody works there: then it is the
folder of whoever starts a machine or a kernel. A home folder is never shared unasked, nor what it lies in: keys and
passwords are kept there. A project that came in a notebook lies in mlvm's own folder, which is nobody's place of work
either.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlvm.errors import MachineError
from mlvm.events import Observer
from mlvm.machine.record import Record
from mlvm.machine.share import listed
from mlvm.machine.share.listed import Shared
from mlvm.paths import shipped
from mlvm.spec.document import SharedFolder

#: Where folders are in the guest unless the spec says otherwise.
WORK = "/work"
#: `off` and `ro` in this variable hold for what no spec asks for.
VARIABLE = "MLVM_SHARE"


def want(
    record: Record,
    share: tuple[SharedFolder, ...] | None,
    here: Path | None,
    *,
    working: bool,
    kernel: bool,
    observer: Observer,
) -> list[Shared]:
    """Write down which folders a machine shall have from its next start, or now if it runs; return them.

    `share` is what the spec says, None for nothing; `here` is the folder of whoever asks, if they are anywhere;
    `kernel` tells that they want to work there. What a working machine has stays, as long as no spec forbids it:
    somebody may be using it. Raises MachineError for a folder of the spec that is not there.
    """
    path = record.folder / listed.LIST
    had = listed.load(path)
    if share is not None:
        wanted = [_from_spec(one, Path(record.project)) for one in share]
    else:
        wanted = _unasked(record, had if working else (), here, kernel=kernel, observer=observer)
    numbered = _numbered(wanted, had, listed.next_number(path))
    if numbered != had:
        listed.save(path, numbered)
    return numbered


def of(record: Record) -> list[Shared]:
    """Return a machine's folders."""
    return listed.load(record.folder / listed.LIST)


def place_of(record: Record, folder: Path) -> str | None:
    """Return where a folder of the host is in the guest, or None when it is not there."""
    real = os.path.realpath(folder)
    found = [
        (len(one.folder), one.at + real[len(one.folder.rstrip("/")) :])
        for one in of(record)
        if real == one.folder or real.startswith(one.folder.rstrip("/") + "/")
    ]
    return max(found)[1] if found else None


def described(shares: Sequence[Shared]) -> list[str]:
    """Say for each folder where it is, and what is wrong with it."""
    return [
        f"shares {one.folder!a} as {one.at!a}, {'to read and write' if one.write else 'read-only'}"
        + (
            ""
            if Path(one.folder).is_dir()
            else "; the folder is gone: programs in the machine see `Stale file handle`"
        )
        for one in shares
    ]


def _from_spec(one: SharedFolder, project: Path) -> Shared:
    root = os.path.realpath(project)
    folder = os.path.realpath(project / one.folder)
    if not os.path.isdir(folder):  # noqa: PTH112
        raise MachineError(
            f"the folder to share, `{one.folder}`, is not there",
            details=f"looked for {folder!a}",
            hint="make it, or take it out of `share` in mlvm.yaml",
        )
    if folder != root and not folder.startswith(root.rstrip("/") + "/"):
        raise MachineError(
            f"the folder to share, `{one.folder}`, is outside of the project",
            details=f"it is a link to {folder!a}",
            hint="share a folder below the one with mlvm.yaml",
        )
    return Shared(number=-1, folder=folder, at=one.at or _place_for(folder, ()), write=one.write)


def _unasked(
    record: Record, had: Sequence[Shared], here: Path | None, *, kernel: bool, observer: Observer
) -> list[Shared]:
    """Return what is shared when no spec says what."""
    choice = os.environ.get(VARIABLE, "rw")
    if choice == "off":
        return []
    found = list(had)
    project = Path(record.project)
    ours = (shipped("boxes"), record.home.carried)
    wanted = [] if any(project.is_relative_to(one) for one in ours) else [project]
    if here is not None and (kernel or not wanted):
        wanted.append(here)
    for folder in wanted:
        real = os.path.realpath(folder)
        if any(real == one.folder or real.startswith(one.folder.rstrip("/") + "/") for one in found):
            continue
        if why := _unfit(real):
            observer.note(f"{real!a} is not shared: {why}")
            continue
        place = _place_for(real, [one.at for one in found])
        found.append(Shared(number=-1, folder=real, at=place, write=choice != "ro"))
    return found


def _unfit(folder: str) -> str:
    """Say why a folder should not be shared unasked; empty when it may be."""
    home = os.path.realpath(Path.home())
    if folder == os.path.realpath(tempfile.gettempdir()):
        return "it is everybody's; work in a folder of its own"
    if (home + "/").startswith(folder.rstrip("/") + "/"):
        return "a home folder holds keys and passwords; work in a folder of its own, or say `share: [...]` in mlvm.yaml"
    return "" if os.access(folder, os.R_OK | os.X_OK) and os.path.isdir(folder) else "it cannot be read"  # noqa: PTH112


def _place_for(folder: str, taken: Sequence[str]) -> str:
    """Return a place in the guest named like the folder, and like no other."""
    name = os.path.basename(folder) or "root"  # noqa: PTH119
    candidates = (name, *(f"{name}-{number}" for number in range(2, listed.MOST)))
    return next(place for one in candidates if (place := f"{WORK}/{one}") not in taken)


def _numbered(wanted: Sequence[Shared], had: Sequence[Shared], following: int) -> list[Shared]:
    """Give what was there its number, and everything else a new one."""
    numbers = {(one.folder, one.at): one.number for one in had}
    found = []
    for one in wanted:
        number = numbers.get((one.folder, one.at))
        if number is None:
            number, following = following, following + 1
        if number >= listed.MOST:
            raise MachineError(
                "this machine has had too many different folders", hint="make a new machine with `--name`"
            )
        found.append(replace(one, number=number))
    return found
