"""From a spec to a lock: apt and uv side by side, then a look at what the packages' scripts would do.

The only part of mlvm that asks the world for versions. What a previous lock has is kept while it fits, so that a
relock moves what was asked for and nothing else. What the table of compatibility rules out is refused before that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from packaging.pylock import Pylock
from packaging.utils import canonicalize_name

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
    resolve_system,
    resolve_tools,
)
from mlvm.lock.document import Archive, DebianPackage, Interpreter, Lock
from mlvm.lock.fit import Fit, fit
from mlvm.lock.mirrors import archives, wanted_debs
from mlvm.lock.python import resolve_python
from mlvm.lock.scripts import unknown_effects
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
) -> Lock:
    """Return a lock for `spec`.

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
    with ThreadPoolExecutor(3, thread_name_prefix="resolve") as pool:
        python = pool.submit(_python, spec, wanted, own, home=home, kept=kept, moving=moving)
        system = pool.submit(
            resolve_system,
            _apt_root(home, spec.debian, "system", stamp),
            previous=_staying((*kept.system, *kept.apt, *kept.boot, *kept.box), spec.debian, moving)
            if kept
            else (),
            observer=observer,
            apt=spec.apt,
        )
        tools = pool.submit(
            resolve_tools,
            _apt_root(home, TOOLS_RELEASE, "tools", stamp),
            previous=_staying((*kept.tools, *kept.box), TOOLS_RELEASE, moving) if kept else (),
            observer=observer,
        )
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
        python=python.result(),
        cuda=cuda.record_of(python.result(), spec, fitting, table),
        interpreter=own,
        box=tuple(sorted((debian.box_kernel, *for_box), key=lambda package: package.name)),
    )
    lock = _keep_what_did_not_move(lock, previous)
    _check_scripts(lock, home, observer)
    return lock


def _interpreter(spec: Spec, *, home: Home, kept: Lock | None, moving: Collection[str]) -> Interpreter | None:
    """Return the box's own Python: None where the release brings it, the kept one unless `python` is to move."""
    if spec.debians_python:
        return None
    if kept and kept.interpreter and kept.inputs["python"] == spec.python and PYTHON not in moving:
        return kept.interpreter
    return interpreters.find(home).of(spec.python)


def _python(
    spec: Spec,
    wanted: Wishes,
    own: Interpreter | None,
    *,
    home: Home,
    kept: Lock | None,
    moving: Collection[str],
) -> Pylock:
    return resolve_python(
        wanted.requirements,
        constraints=wanted.constraints,
        index=spec.index,
        python=spec.python,
        release=spec.debian,
        full=own.version if own else None,
        cache_folder=home.cache / "uv",
        previous=kept.python if kept else None,
        upgrade={canonicalize_name(name) for name in moving},
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
    wheels = [(package.name, package.version, package.wheels) for package in lock.python.packages]
    return (
        lock.guest_kernel,
        lock.system,
        lock.apt,
        lock.boot,
        lock.tools,
        lock.inputs["python"],
        lock.interpreter,
        wheels,
    )


def _check_known(moving: Collection[str], previous: Lock | None) -> None:
    """A name that nothing has is a slip of the hand. Debian's names are used as they are, Python's in any spelling."""
    if previous is None:
        return
    debs = {package.name for package in (*previous.debs(), *previous.box)}
    wheels = {str(package.name) for package in previous.python.packages}
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
