"""From a spec to a lock: apt and uv side by side, then a look at what the packages' scripts would do.

The only part of mlvm that asks the world for versions. What a previous lock has is kept while it fits, so that a
relock moves what was asked for and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

from packaging.utils import canonicalize_name

from mlvm.download import Blobs, fetch
from mlvm.errors import ResolveError
from mlvm.events import SILENT, Observer
from mlvm.lock.debian import (
    ARCHITECTURE,
    TOOLS_RELEASE,
    AptRoot,
    DebianPart,
    resolve_system,
    resolve_tools,
)
from mlvm.lock.document import Archive, DebianPackage, Lock
from mlvm.lock.mirrors import archives, wanted_debs
from mlvm.lock.python import resolve_python
from mlvm.lock.scripts import unknown_effects
from mlvm.paths import Home
from mlvm.spec.document import Spec


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
    if upgrade is not None and not upgrade:
        previous = None
    moving: set[str] = {canonicalize_name(name) for name in upgrade or ()}
    _check_known(moving, previous)
    kept = [package for package in (previous.debs() if previous else ()) if package.name not in moving]
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    with ThreadPoolExecutor(2) as pool:
        python = pool.submit(
            resolve_python,
            spec.packages,
            python=spec.python,
            release=spec.debian,
            cache_folder=home.cache / "uv",
            previous=previous.python if previous else None,
            upgrade=moving,
        )
        debian, tools = _resolve_debian(spec, home, stamp, kept, observer)
        lock = Lock(
            name=spec.name,
            inputs=spec.resolution_inputs(),
            architecture=ARCHITECTURE,
            guest_kernel=debian.guest_kernel,
            archives=_archives(spec.debian, stamp),
            system=debian.system,
            boot=debian.boot,
            tools=tools,
            python=python.result(),
        )
    lock = _keep_what_did_not_move(lock, previous)
    _check_scripts(lock, home, observer)
    return lock


def _resolve_debian(
    spec: Spec, home: Home, stamp: str, kept: list[DebianPackage], observer: Observer
) -> tuple[DebianPart, tuple[DebianPackage, ...]]:
    def of(release: str) -> list[DebianPackage]:
        return [package for package in kept if package.archive in {release, f"{release}-security"}]

    def root(release: str, part: str) -> AptRoot:
        folder = home.cache / "apt" / f"{release}-{part}"
        return AptRoot(folder=folder, release=release, archives=archives(release, stamp))

    debian = resolve_system(root(spec.debian, "system"), previous=of(spec.debian), observer=observer)
    tools = resolve_tools(root(TOOLS_RELEASE, "tools"), previous=of(TOOLS_RELEASE), observer=observer)
    return debian, tools


def _archives(release: str, stamp: str) -> tuple[Archive, ...]:
    found = {archive.name: archive for name in (release, TOOLS_RELEASE) for archive in archives(name, stamp)}
    return tuple(found[name] for name in sorted(found))


def _keep_what_did_not_move(lock: Lock, previous: Lock | None) -> Lock:
    """An archive whose packages are all as before keeps its timestamp; an image made of the same things its digests."""
    if previous is None:
        return lock
    before = {archive.name: archive for archive in previous.archives}
    lock = replace(
        lock,
        archives=tuple(
            before[archive.name]
            if archive.name in before and _from(lock.debs(), archive) == _from(previous.debs(), archive)
            else archive
            for archive in lock.archives
        ),
    )
    same = (lock.system, lock.boot, lock.tools, lock.python) == (
        previous.system,
        previous.boot,
        previous.tools,
        previous.python,
    )
    return replace(lock, image=previous.image) if same else lock


def _from(packages: Iterable[DebianPackage], archive: Archive) -> list[DebianPackage]:
    return [package for package in packages if package.archive == archive.name]


def _check_known(moving: set[str], previous: Lock | None) -> None:
    if previous is None:
        return
    known = {str(package.name) for package in previous.python.packages} | {p.name for p in previous.debs()}
    if unknown := sorted(moving - known):
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
