"""Where Debian packages come from: canonical places in the lock, a nearer mirror for whoever has one.

A lock names the canonical archive and its history, so that it means the same to everybody. `MLVM_DEBIAN_MIRROR` (the
part before `/debian` and `/debian-security`) is tried first when resolving and fetching, and never written down.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from packaging.pylock import Package, Pylock

from mlvm.download import Wanted
from mlvm.errors import ResolveError
from mlvm.lock.document import Archive, Build, DebianPackage, Lock

MIRROR = "http://deb.debian.org"
SNAPSHOT = "https://snapshot.debian.org/archive"
MIRROR_URL = re.compile(r"(?:https?|file)://[!-~]+")


def archives(release: str, timestamp: str) -> tuple[Archive, ...]:
    """Return the two archives of a release: the main one (with updates) and security."""
    return (
        Archive(
            name=release,
            uri=f"{MIRROR}/debian",
            snapshot=f"{SNAPSHOT}/debian",
            suite=release,
            components=("main",),
            timestamp=timestamp,
        ),
        Archive(
            name=f"{release}-security",
            uri=f"{MIRROR}/debian-security",
            snapshot=f"{SNAPSHOT}/debian-security",
            suite=f"{release}-security",
            components=("main",),
            timestamp=timestamp,
        ),
    )


def nearest(uri: str) -> str:
    """Return `uri`, or the same place on the mirror that the user prefers. Raises ResolveError for none at all."""
    mirror = os.environ.get("MLVM_DEBIAN_MIRROR", "").rstrip("/")
    if mirror and not MIRROR_URL.fullmatch(mirror):
        raise ResolveError(
            f"MLVM_DEBIAN_MIRROR is `{mirror}`, which is not the URL of a mirror",
            hint="it is what stands before `/debian` and `/debian-security`, such as http://deb.debian.org",
        )
    return mirror + uri.removeprefix(MIRROR) if mirror and uri.startswith(MIRROR) else uri


def wanted_debs(lock: Lock, packages: Iterable[DebianPackage]) -> list[Wanted]:
    """Return what to fetch for `packages`, each with all its places."""
    return [
        Wanted(
            name=f"{package.name} {package.version}",
            urls=tuple(dict.fromkeys(place for url in lock.urls(package) for place in (nearest(url), url))),
            sha256=package.sha256,
            size=package.size,
        )
        for package in packages
    ]


def wanted_wheels(lock: Lock) -> list[Wanted]:
    """Return what to fetch for the Python part: all wheels but those that are built from sources."""
    return _wanted(lock.python)


def wanted_for_build(package: Package, build: Build) -> list[Wanted]:
    """Return what to fetch to build a package: its sdist, and the wheels that the build needs."""
    return [wanted_sdist(package), *_wanted(build.requires)]


def wanted_sdist(package: Package) -> Wanted:
    """Return what to fetch for a package's sources."""
    assert package.sdist is not None
    return Wanted(
        name=f"{package.name} {package.version} (sources)",
        urls=(package.sdist.url or "",),
        sha256=package.sdist.hashes["sha256"],
        size=package.sdist.size,
    )


def wheel_digests(lock: Lock) -> list[str]:
    """Return the digests of all wheels of the Python part, wherever they come from."""
    return [wheel.hashes["sha256"] for package in lock.python.packages for wheel in package.wheels or ()]


def _wanted(pylock: Pylock) -> list[Wanted]:
    return [
        Wanted(
            name=f"{package.name} {package.version}",
            urls=(wheel.url,),
            sha256=wheel.hashes["sha256"],
            size=wheel.size,
        )
        for package in pylock.packages
        for wheel in package.wheels or ()
        if wheel.url is not None
    ]
