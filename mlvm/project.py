"""A project from its folder to a running machine: the chain, one verb a step.

Everything left of the machine is a plain function from one frozen document to the next; this module strings them
together and decides what is missing. It reads like the recipe that it is: look in the rooms for how.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlvm import background
from mlvm.errors import LockError, SpecError
from mlvm.events import SILENT, Observer, stage
from mlvm.paths import LOCK_NAME, SPEC_NAME, Home, shipped

if TYPE_CHECKING:
    from mlvm.image.document import Image
    from mlvm.lock.document import Lock
    from mlvm.machine.record import Record
    from mlvm.spec.document import Spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Project:
    """A folder with a spec, and, once it is locked, a lock beside it."""

    folder: Path
    home: Home

    @property
    def spec_path(self) -> Path:
        """Where the spec is."""
        return self.folder / SPEC_NAME

    @property
    def lock_path(self) -> Path:
        """Where the lock is, or will be."""
        return self.folder / LOCK_NAME

    @classmethod
    def find(cls, target: str | None, cwd: Path, *, home: Home) -> Project:
        """Return the project that `target` means, seen from folder `cwd`.

        Nothing means the nearest `mlvm.yaml` from `cwd` upwards. Else: a path (anything with a slash, or `.`), a
        shipped box, or the name of something built here before, in this order. Raises SpecError.
        """
        if target is None:
            return _upwards(cwd, home)
        if "/" in target or target in {".", ".."}:
            return _at_path((cwd / Path(target).expanduser()).absolute(), home)
        if (shipped("boxes") / target / SPEC_NAME).is_file():
            return cls(folder=shipped("boxes") / target, home=home)
        from mlvm.image.store import Store  # noqa: PLC0415  (most commands never look at the store)

        if folder := Store(home).project_called(target):
            return cls(folder=folder, home=home)
        raise SpecError(
            f"there is no box called `{target}`",
            details="shipped boxes: " + ", ".join(shipped_boxes()),
            hint=f"for a folder write it as a path: `./{target}`",
        )

    def spec(self) -> Spec:
        """Read the spec. Raises SpecError with every complaint."""
        from mlvm.spec.reader import load  # noqa: PLC0415

        return load(self.spec_path)

    def lock(self) -> Lock | None:
        """Read the lock; None when there is none yet. Raises LockError."""
        from mlvm.lock.text import load  # noqa: PLC0415

        return load(self.lock_path) if self.lock_path.exists() else None

    def stale_reasons(self) -> list[str]:
        """Say why the lock does not fit the spec; empty when it is fresh."""
        return self._stale_reasons(self.lock())

    def _stale_reasons(self, lock: Lock | None) -> list[str]:
        from mlvm.lock.fresh import stale_reasons  # noqa: PLC0415

        spec = self.spec()
        return [f"there is no {LOCK_NAME}"] if lock is None else stale_reasons(spec, lock)

    def relock(
        self, *, upgrade: Collection[str] | None = None, observer: Observer = SILENT
    ) -> tuple[Lock | None, Lock]:
        """Resolve the spec, write the lock, return the old and the new one.

        What the old lock has is kept while it fits: `upgrade` names what may move, and an empty one means everything.
        """
        from mlvm.lock.resolve import resolve  # noqa: PLC0415
        from mlvm.lock.text import dumps  # noqa: PLC0415

        spec, old = self.spec(), self.lock()
        for note in spec.notes:
            observer.note(note)
        with stage(observer, "lock", spec.name):
            new = resolve(spec, home=self.home, observer=observer, previous=old, upgrade=upgrade)
        from mlvm.files import write_whole  # noqa: PLC0415

        write_whole(self.lock_path, dumps(new))
        return old, new

    def fresh_lock(self, *, frozen: bool = False, observer: Observer = SILENT) -> Lock:
        """Return a lock that fits the spec, resolving when there is none or it is stale.

        With `frozen`, raise LockError instead: nothing moves unless somebody says so.
        """
        lock = self.lock()
        reasons = self._stale_reasons(lock)
        if lock is not None and not reasons:
            return lock
        if frozen:
            raise LockError(
                f"`{self.lock_path}` does not fit its spec",
                details="\n".join(reasons),
                hint="mlvm lock",
            )
        for reason in reasons:
            observer.note(f"locking: {reason}")
        return self.relock(observer=observer)[1]

    def build(self, *, frozen: bool = False, observer: Observer = SILENT) -> Image:
        """Build the image, and whatever comes before it; return at once when it is in the store."""
        from mlvm.image.build import build  # noqa: PLC0415
        from mlvm.image.store import Store  # noqa: PLC0415

        lock = self.fresh_lock(frozen=frozen, observer=observer)
        image = build(lock, home=self.home, observer=observer)
        Store(self.home).register_project(lock.name, self.folder, image.id)
        return image

    def up(
        self, name: str | None = None, *, frozen: bool = False, warm: bool = True, observer: Observer = SILENT
    ) -> Record:
        """Bring up the project's machine, making whatever is missing; nothing happens when it runs already.

        A fresh machine starts warm where it can. Where it cannot, what it would need is made in the background after
        it has started. Without `warm`, or with `MLVM_WARM=off` in the environment, neither.
        """
        from mlvm.machine.create import ensure  # noqa: PLC0415
        from mlvm.machine.provider import warm_allowed  # noqa: PLC0415
        from mlvm.machine.table import provider_for  # noqa: PLC0415

        spec = self.spec()
        image = self.build(frozen=frozen, observer=observer)
        record = ensure(self.home, name or spec.name, image=image, spec=spec, project=self.folder)
        provider = provider_for(record, warm=warm)
        provider.start(record, image, observer=observer)
        if warm and warm_allowed() and not provider.has_warm(record, image):
            background.make_warm(self.folder, record, observer=observer)
        return record

    def make_warm(self, *, frozen: bool = False, observer: Observer = SILENT) -> None:
        """Make what lets fresh machines of this project start warm, and the image before it."""
        from mlvm.machine.create import record_of  # noqa: PLC0415
        from mlvm.machine.table import provider_for  # noqa: PLC0415

        spec = self.spec()
        image = self.build(frozen=frozen, observer=observer)
        record = record_of(self.home, spec.name, image=image, spec=spec, project=self.folder)
        provider_for(record).make_warm(record, image, observer=observer)


def shipped_boxes() -> list[str]:
    """Return the names of the boxes that come with mlvm."""
    return sorted(path.parent.name for path in shipped("boxes").glob(f"*/{SPEC_NAME}"))


def _upwards(cwd: Path, home: Home) -> Project:
    for folder in (cwd, *cwd.parents):
        if (folder / SPEC_NAME).is_file():
            return Project(folder=folder, home=home)
    raise SpecError(
        f"no {SPEC_NAME} in `{cwd}` or above it",
        hint=f"mlvm init, or name a box: {', '.join(shipped_boxes())}",
    )


def _at_path(path: Path, home: Home) -> Project:
    folder = path.parent if path.name == SPEC_NAME else path
    if not (folder / SPEC_NAME).is_file():
        raise SpecError(f"there is no {SPEC_NAME} in `{folder}`", hint=f"cd {folder} && mlvm init")
    return Project(folder=folder, home=home)
