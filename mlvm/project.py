"""A project from its folder to a running machine: the chain, one verb a step.

Everything left of the machine is a plain function from one frozen document to the next; this module strings them
together and decides what is missing. It reads like the recipe that it is: look in the rooms for how.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlvm import background
from mlvm.errors import KernelError, LockError, MachineError, SpecError
from mlvm.events import SILENT, Observer, stage
from mlvm.paths import LOCK_NAME, SPEC_NAME, Home, shipped

if TYPE_CHECKING:
    from mlvm.box.export import Exported
    from mlvm.box.vagrantfile import Catalog
    from mlvm.image.document import Image
    from mlvm.lock.document import Lock
    from mlvm.machine.record import Record
    from mlvm.machine.unchanged import Known
    from mlvm.spec.document import SharedFolder, Spec


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

    @classmethod
    def carried_by(cls, notebook: Path, *, home: Home) -> Project | None:
        """Return the project whose lock rides in a notebook, unpacked; None when there is no lock in it.

        Raises LockError for one that cannot be used.
        """
        from mlvm.lock import carried  # noqa: PLC0415
        from mlvm.spec import ipynb  # noqa: PLC0415

        found = carried.find(ipynb.read(notebook))
        return None if found is None else cls(folder=carried.unpack(found, home), home=home)

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
        from mlvm.wheels.making import Making  # noqa: PLC0415

        spec, old = self.spec(), self.lock()
        for note in spec.notes:
            observer.note(note)
        with stage(observer, "lock", spec.name):
            maker = Making(home=self.home, observer=observer)
            new = resolve(spec, home=self.home, observer=observer, previous=old, upgrade=upgrade, maker=maker)
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
        self.provide_wheels(lock, observer=observer)
        image = build(lock, home=self.home, observer=observer)
        Store(self.home).register_project(lock.name, self.folder, image.id)
        return image

    def provide_wheels(self, lock: Lock, *, observer: Observer = SILENT) -> None:
        """Build the wheels of a lock that come from sources, where they are not in the store."""
        if lock.builds:
            from mlvm.wheels.making import provide  # noqa: PLC0415

            provide(lock, home=self.home, observer=observer)

    def export_box(
        self,
        provider: str,
        *,
        output: Path | None = None,
        frozen: bool = False,
        observer: Observer = SILENT,
    ) -> Exported:
        """Pack the image as a box for one of Vagrant's providers; without `output`, into the current folder."""
        from mlvm.box.export import export  # noqa: PLC0415
        from mlvm.box.providers import box_kind  # noqa: PLC0415

        box_kind(provider)
        lock = self.fresh_lock(frozen=frozen, observer=observer)
        image = self.build(frozen=True, observer=observer)
        target = output or Path.cwd() / f"{lock.name}-{provider}.box"
        return export(lock, image, home=self.home, provider=provider, output=target, observer=observer)

    def write_vagrantfile(
        self, *, boxes: Path | None = None, url: str | None = None, catalog: Catalog | None = None
    ) -> tuple[Path, list[str]]:
        """Write the project's Vagrantfile; return its path, and the providers whose boxes it pins.

        Boxes are looked for in the folder `boxes` (default: the project's own) as `export_box` names them. Raises
        LockError when there is no fresh lock, BuildError when there is neither a box nor a catalog.
        """
        from mlvm.box import vagrantfile  # noqa: PLC0415
        from mlvm.errors import BuildError  # noqa: PLC0415

        spec, lock = self.spec(), self.fresh_lock(frozen=True)
        place = boxes or self.folder
        found = {} if catalog else vagrantfile.box_files(lock, place, url=url, beside=self.folder)
        if not found and catalog is None:
            raise BuildError(
                f"there is no box of `{lock.name}` in `{place}`",
                hint=f"mlvm box export --output {place}/{lock.name}-libvirt.box, or name a --catalog",
            )
        text = vagrantfile.render(spec, lock, boxes=found, catalog=catalog)
        return vagrantfile.write(self.folder, text), sorted(found)

    def up(
        self,
        name: str | None = None,
        *,
        frozen: bool = False,
        warm: bool = True,
        here: Path | None = None,
        run_by: str | None = None,
        observer: Observer = SILENT,
    ) -> Record:
        """Bring up the project's machine, making whatever is missing; nothing happens when it runs already.

        A fresh machine starts warm where it can. Where it cannot, what it would need is made in the background after
        it has started. Without `warm`, or with `MLVM_WARM=off` in the environment, neither. A project with several
        machines is brought up by `mlvm.group`; here one of them must be named. `here` is the folder that is shared
        where the project has none of its own to share; `run_by` names the provider of a machine that is not there yet.
        """
        record, image = self.start(
            name, frozen=frozen, warm=warm, here=here, run_by=run_by, observer=observer
        )
        self.prepare_warm([record], image, warm=warm, observer=observer)
        return record

    def start(
        self,
        name: str | None = None,
        *,
        frozen: bool = False,
        warm: bool = True,
        here: Path | None = None,
        run_by: str | None = None,
        observer: Observer = SILENT,
    ) -> tuple[Record, Image]:
        """Bring up one machine, and do nothing in the background; return it and its image."""
        from mlvm.machine.create import ensure_record  # noqa: PLC0415
        from mlvm.machine.folders import want  # noqa: PLC0415
        from mlvm.machine.provider import WORKING, State  # noqa: PLC0415
        from mlvm.machine.table import check_same, provider_for  # noqa: PLC0415

        known, image = self._machine(name, frozen=frozen, observer=observer)
        record = ensure_record(replace(known.record, provider=run_by) if run_by else known.record)
        check_same(record, run_by)
        provider = provider_for(record, warm=warm)
        state = provider.state(record).state
        if not provider.shares_folders:
            _refuse_editable(known.share, provider.name)
        else:
            working = state in WORKING
            want(record, known.share, here, working=working, kernel=False, observer=observer)
        if provider.name == "vagrant" and state is not State.RUNNING:
            from mlvm import boxed  # noqa: PLC0415

            lock = self.fresh_lock(frozen=True)
            boxed.prepare(record, self.spec(), lock, image, observer=observer)
        provider.start(record, image, observer=observer)
        return record, image

    def prepare_warm(
        self, records: Sequence[Record], image: Image, *, warm: bool = True, observer: Observer = SILENT
    ) -> None:
        """Have made in the background what fresh machines like these need to start warm, where it is missing."""
        from mlvm.machine.provider import making_allowed  # noqa: PLC0415
        from mlvm.machine.table import provider_for  # noqa: PLC0415

        if not (warm and making_allowed() and image.forks_kernels):
            return
        lacking = [
            record
            for record in records
            if not record.shape.elastic and not provider_for(record).has_warm(record, image)
        ]
        if lacking:
            largest = max(lacking, key=lambda record: record.shape.memory)
            background.make_warm(self.folder, largest, observer=observer)

    def _machine(self, name: str | None, *, frozen: bool, observer: Observer) -> tuple[Known, Image]:
        """Return what the project's files mean for a machine, and the image, which is built."""
        from mlvm.image.store import Store  # noqa: PLC0415
        from mlvm.machine import unchanged  # noqa: PLC0415

        known = unchanged.recall(self.folder, name, home=self.home)
        if known is not None and (image := Store(self.home).kept_image(known.record.image_id)) is not None:
            return known, image
        from mlvm.kernel.launch import check_encryption  # noqa: PLC0415
        from mlvm.machine.create import record_of  # noqa: PLC0415

        spec = self.spec()
        name = machine_name(spec, name)
        self.check_host(spec, [name], observer)
        image = self.build(frozen=frozen, observer=observer)
        record = record_of(self.home, name, image=image, spec=spec, project=self.folder)
        if not spec.machines and spec.cuda is None and not spec.machine.gpu:
            with suppress(
                KernelError
            ):  # a kernel could not be started in it; whoever wants one shall be told
                check_encryption(self.fresh_lock(frozen=True))
                unchanged.note(self.folder, replace(record, name=spec.name), spec.share)
        return unchanged.Known(record=record, share=spec.share), image

    def check_host(self, spec: Spec, names: Sequence[str], observer: Observer = SILENT) -> None:
        """Refuse, before anything is made, machines whose GPUs this host cannot give, one and all."""
        shapes = [member.shape for name in names if (member := spec.member_called(name))] or [spec.machine]
        gpus = sum(shape.gpu for shape in shapes)
        if spec.cuda is None and not gpus:
            return
        from mlvm.lock import compatibility, cuda  # noqa: PLC0415
        from mlvm.machine.gpu import require  # noqa: PLC0415

        needs = cuda.needs_of(spec, compatibility.find(self.home)) if spec.cuda else None
        memory = max(shape.memory for shape in shapes if shape.gpu or not gpus)
        if note := require(replace(shapes[0], gpu=gpus, memory=memory), needs):
            observer.note(note)

    def make_warm(self, *, frozen: bool = False, observer: Observer = SILENT) -> None:
        """Make what lets fresh machines of this project start warm, and the image before it."""
        from mlvm.machine.table import provider_for  # noqa: PLC0415

        for record, image in self._kinds(frozen=frozen, observer=observer):
            if record.shape.elastic:
                observer.note(f"`{record.name}` gives memory back, and never starts warm")
            elif not image.forks_kernels:
                observer.note(f"`{record.name}` has Python {image.python}, and never starts warm")
            else:
                provider_for(record).make_warm(record, image, observer=observer)

    def _kinds(self, *, frozen: bool, observer: Observer) -> list[tuple[Record, Image]]:
        """Return one machine of each shape that this project has, and the image."""
        from mlvm.machine.create import record_of  # noqa: PLC0415

        spec = self.spec()
        if not spec.machines:
            known, image = self._machine(None, frozen=frozen, observer=observer)
            return [(known.record, image)]
        image = self.build(frozen=frozen, observer=observer)
        names = [spec.machine_of(member) for member in spec.machines]
        records = [record_of(self.home, name, image=image, spec=spec, project=self.folder) for name in names]
        return [(record, image) for record in {record.shape: record for record in records}.values()]

    def make_standby(self, *, observer: Observer = SILENT) -> bool:
        """Have a machine on standby, which the next fresh machine of this project will be; return whether there is.

        Makes the warm state and the image before it, where they are missing. Of a project with several machines there
        is one of each shape.
        """
        self.make_warm(frozen=True, observer=observer)
        kinds = self._kinds(frozen=True, observer=observer)
        there = [
            self._standby(record, image, observer)
            for record, image in kinds
            if image.forks_kernels and not record.shape.elastic
        ]
        return all(there)

    def _standby(self, record: Record, image: Image, observer: Observer) -> bool:
        from mlvm.kernel.rehearsal import rehearse  # noqa: PLC0415
        from mlvm.machine.table import provider_for  # noqa: PLC0415

        provider = provider_for(record)
        return provider.make_standby(
            record, image, rehearse=lambda machine: rehearse(machine, provider), observer=observer
        )


def _refuse_editable(share: tuple[SharedFolder, ...] | None, provider: str) -> None:
    """Raise MachineError when a machine would need code that stays on the host, and cannot have it."""
    from mlvm.spec.document import EDITABLE  # noqa: PLC0415

    places = [one.at for one in share or () if one.at]
    if names := [place.rpartition("/")[2] for place in places if place.startswith(f"{EDITABLE}/")]:
        raise MachineError(
            f"machines of {provider} have no folders of the host, and the code of `{names[0]}` is in one",
            hint="mlvm up --provider qemu, or take it out of `editable`",
        )


def machine_name(spec: Spec, name: str | None) -> str:
    """Return the name of the machine that `name` means in a spec. Raises MachineError where it has several."""
    if not spec.machines:
        return name or spec.name
    member = spec.member_called(name) if name else None
    if member is None:
        names = ", ".join(one.name for one in spec.machines)
        raise MachineError(
            f"there is no machine `{name}` in this project" if name else "which of this project's machines?",
            details=f"machines: {names}",
            hint="`mlvm up` brings up all of them",
        )
    return spec.machine_of(member)


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
