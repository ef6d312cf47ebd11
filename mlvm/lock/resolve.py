"""From a spec to a lock: apt and uv side by side, then a look at what the packages' scripts would do.

The only part of mlvm that asks the world for versions. What a previous lock has is kept while it fits, so that a
relock moves what was asked for and nothing else. What the table of compatibility rules out is refused before that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from packaging.pylock import Pylock
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlvm.download import Blobs, fetch
from mlvm.errors import ResolveError
from mlvm.events import SILENT, Observer
from mlvm.lock import compatibility, cuda, interpreters
from mlvm.lock.compatibility import Table
from mlvm.lock.cuda import Wishes
from mlvm.lock.debian import (
    ARCHITECTURE,
    TOOLS_RELEASE,
    AptRoot,
    DebianPart,
    resolve_system,
    resolve_tools,
)
from mlvm.lock.document import Archive, DebianPackage, Interpreter, Lock
from mlvm.lock.fit import Fit, fit
from mlvm.lock.mirrors import archives, wanted_debs
from mlvm.lock.python import resolve_python
from mlvm.lock.scripts import unknown_effects
from mlvm.lock.sdists import Maker, Resolving
from mlvm.paths import Home
from mlvm.spec.document import Spec

#: What `--upgrade` calls a box's own Python.
PYTHON = "python"


def resolve(
    spec: Spec,
    *,
    home: Home,
    observer: Observer = SILENT,
    previous: Lock | None = None,
    upgrade: Collection[str] | None = None,
    maker: Maker | None = None,
) -> Lock:
    """Return a lock for `spec`; `maker` builds what stands in its `sdists`.

    `upgrade` None keeps of `previous` all that still fits; names move these and what they force; an empty one moves
    everything. Raises ResolveError in the resolvers' own words, and when a package's scripts do what no builder step
    does. Leaves the .debs in the store's blobs: the scripts are inside them.
    """
    table = compatibility.find(home)
    fitting = _fitting(spec, table, observer)
    wanted = cuda.wishes(spec, fitting, table)
    moving = frozenset(upgrade or ())
    _check_known(moving, previous)
    kept = None if upgrade is not None and not upgrade else previous
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    own = _interpreter(spec, home=home, kept=kept, moving=moving)
    asked = _Asked(spec=spec, wanted=wanted, own=own, home=home, kept=kept, moving=moving)
    with ThreadPoolExecutor(3, thread_name_prefix="resolve") as pool:
        # What is built from sources can only be looked at when there is a system to build it in.
        python = None if spec.sdists else pool.submit(asked.whole)
        system = pool.submit(asked.system, stamp, observer)
        tools = pool.submit(asked.tools, stamp, observer)
    debian, (for_image, for_box) = system.result(), tools.result()
    lock = Lock(
        name=spec.name,
        inputs=spec.resolution_inputs(),
        architecture=ARCHITECTURE,
        guest_kernel=debian.guest_kernel,
        archives=_archives(spec.debian, stamp),
        system=debian.system,
        apt=debian.apt,
        boot=debian.boot,
        tools=for_image,
        python=python.result()
        if python
        else Pylock(lock_version=Version("1.0"), created_by="mlvm", packages=[]),
        interpreter=own,
        box=tuple(sorted((debian.box_kernel, *for_box), key=lambda package: package.name)),
    )
    _check_scripts(lock, home, observer)
    if spec.sdists:
        lock = _with_sdists(lock, asked, maker)
    _check_own(spec, lock)
    lock = replace(lock, cuda=cuda.record_of(lock.python, spec, fitting, table))
    return _keep_what_did_not_move(lock, previous)


def _interpreter(spec: Spec, *, home: Home, kept: Lock | None, moving: Collection[str]) -> Interpreter | None:
    """Return the box's own Python: None where the release brings it, the kept one unless `python` is to move."""
    if spec.debians_python:
        return None
    if kept and kept.interpreter and kept.inputs["python"] == spec.python and PYTHON not in moving:
        return kept.interpreter
    return interpreters.find(home).of(spec.python)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What the resolvers are asked in one resolution."""

    spec: Spec
    wanted: Wishes
    own: Interpreter | None
    home: Home
    kept: Lock | None
    moving: Collection[str]

    def whole(self, metadata: Sequence[Mapping[str, Any]] = ()) -> Pylock:
        """Resolve the spec; `metadata` is what is known of packages that are built from sources."""
        return self._python(
            self.wanted.requirements,
            constraints=self.wanted.constraints,
            previous=self.kept.python if self.kept else None,
            sdists=self.spec.sdists,
            metadata=metadata,
        )

    def build(self, requires: Sequence[str], previous: Pylock | None) -> Pylock:
        """Resolve what a build needs."""
        return self._python(requires, previous=previous, always=())

    def system(self, stamp: str, observer: Observer) -> DebianPart:
        """Resolve the guest's Debian packages."""
        kept = self.kept
        before = (*kept.system, *kept.apt, *kept.boot, *kept.box) if kept else ()
        return resolve_system(
            _apt_root(self.home, self.spec.debian, "system", stamp),
            previous=_staying(before, self.spec.debian, self.moving),
            observer=observer,
            apt=self.spec.apt,
        )

    def tools(
        self, stamp: str, observer: Observer
    ) -> tuple[tuple[DebianPackage, ...], tuple[DebianPackage, ...]]:
        """Resolve the tools, those for images and those for boxes."""
        before = (*self.kept.tools, *self.kept.box) if self.kept else ()
        return resolve_tools(
            _apt_root(self.home, TOOLS_RELEASE, "tools", stamp),
            previous=_staying(before, TOOLS_RELEASE, self.moving),
            observer=observer,
        )

    def _python(self, requirements: Sequence[str], **options: Any) -> Pylock:
        return resolve_python(
            requirements,
            index=self.spec.index,
            python=self.spec.python,
            release=self.spec.debian,
            full=self.own.version if self.own else None,
            cache_folder=self.home.cache / "uv",
            upgrade={canonicalize_name(name) for name in self.moving},
            **options,
        )


def _with_sdists(lock: Lock, asked: _Asked, maker: Maker | None) -> Lock:
    """Return the lock with its Python part, which is partly built. Raises ResolveError, BuildError."""
    if maker is None:
        raise ResolveError("nothing here builds packages from their sources", hint="mlvm lock")
    kept = {build.name: build for build in asked.kept.builds} if asked.kept else {}
    resolving = Resolving(lock=lock, maker=maker, resolve=asked.whole, requirements=asked.build, kept=kept)
    python, builds = resolving.run(asked.spec.sdists)
    return replace(lock, python=python, builds=builds)


def _check_own(spec: Spec, lock: Lock) -> None:
    """A package is the project's or an index's, not both."""
    locked = {str(package.name) for package in lock.python.packages}
    if twice := [package.name for package in spec.editable if package.name in locked]:
        raise ResolveError(
            f"`{twice[0]}` is in `editable`, and something in the spec needs the one from the index",
            hint=f"take `{twice[0]}` out of `packages`, or give the project's own another name",
        )


def _fitting(spec: Spec, table: Table, observer: Observer) -> Fit:
    """Return the builds that fit the spec. Raises ResolveError for what cannot work."""
    found = fit(spec, table)
    found.check()
    for line in found.let_pass if spec.cuda else ():
        observer.note(f"let pass: {line}")
    return found


def _staying(packages: Iterable[DebianPackage], release: str, moving: Collection[str]) -> list[DebianPackage]:
    """The packages whose versions are to stay: those of another release could not, if the spec changed it."""
    own = {release, f"{release}-security"}
    return [package for package in packages if package.archive in own and package.name not in moving]


def _apt_root(home: Home, release: str, part: str, stamp: str) -> AptRoot:
    """Guest and tools have roots of their own: they keep different versions, and are resolved at the same time."""
    folder = home.cache / "apt" / f"{release}-{part}"
    return AptRoot(folder=folder, release=release, archives=archives(release, stamp))


def _archives(release: str, stamp: str) -> tuple[Archive, ...]:
    found = {archive.name: archive for name in (release, TOOLS_RELEASE) for archive in archives(name, stamp)}
    return tuple(found[name] for name in sorted(found))


def _keep_what_did_not_move(lock: Lock, previous: Lock | None) -> Lock:
    """An archive whose packages are all as before keeps its timestamp; an image made of the same things its digests.

    So do boxes that were published.
    """
    if previous is None:
        return lock
    before = {archive.name: archive for archive in previous.archives}
    lock = replace(
        lock,
        archives=tuple(
            before[archive.name]
            if archive.name in before and _from(lock, archive) == _from(previous, archive)
            else archive
            for archive in lock.archives
        ),
    )
    if _made_of(lock) != _made_of(previous):
        return lock
    published = previous.published if lock.box == previous.box else ()
    return replace(lock, image=previous.image, published=published)


def _from(lock: Lock, archive: Archive) -> list[DebianPackage]:
    return [package for package in (*lock.debs(), *lock.box) if package.archive == archive.name]


def _made_of(lock: Lock) -> object:
    """What an image's bytes depend on; the requirements and the archives' timestamps are not among it."""
    wheels = [(one.name, one.version, one.wheels, one.sdist) for one in lock.python.packages]
    return (
        lock.guest_kernel,
        lock.system,
        lock.apt,
        lock.boot,
        lock.tools,
        lock.inputs["python"],
        lock.inputs.get("editable"),
        lock.interpreter,
        wheels,
    )


def _check_known(moving: Collection[str], previous: Lock | None) -> None:
    """A name that nothing has is a slip of the hand. Debian's names are used as they are, Python's in any spelling."""
    if previous is None:
        return
    debs = {package.name for package in (*previous.debs(), *previous.box)}
    every = (previous.python, *(build.requires for build in previous.builds))
    wheels = {str(package.name) for pylock in every for package in pylock.packages}
    if previous.interpreter:
        wheels.add(PYTHON)
    unknown = [name for name in sorted(moving) if name not in debs and canonicalize_name(name) not in wheels]
    if unknown:
        raise ResolveError(
            f"nothing called {', '.join(f'`{name}`' for name in unknown)} is in the lock",
            hint="`mlvm show lock` lists what is; `mlvm lock --upgrade` without names moves everything",
        )


def _check_scripts(lock: Lock, home: Home, observer: Observer) -> None:
    blobs = Blobs(home.store / "blobs")
    fetch(wanted_debs(lock, (*lock.system, *lock.boot)), blobs, observer=observer)
    release = str(lock.inputs["debian"])
    complaints = unknown_effects(
        release, {package.name: blobs.path(package.sha256) for package in lock.system}
    )
    if complaints:
        raise ResolveError(
            "scripts of Debian packages do what mlvm does not know how to do",
            details="\n".join(complaints),
            hint="please report it: mlvm's table of known scripts needs these entries",
        )
