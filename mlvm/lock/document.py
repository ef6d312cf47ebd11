"""The lock: exactly what a spec means, as frozen data, and its text form.

TOML in the manner of other lock files: one block a package, sorted, so that a change of one package is a change of
one block. The Python part is a whole PEP 751 document (`packaging.pylock` reads and checks it), cut down to the one
wheel per package that this box can use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from packaging.pylock import Pylock

LOCK_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A Debian archive as it was when the lock was made.

    `uri` is the mirror's base ("http://deb.debian.org/debian"); `snapshot` the base of the archive's history, used
    when the mirror has dropped a file; `timestamp` the moment of resolving, "20261123T160000Z".
    """

    name: str
    uri: str
    snapshot: str
    suite: str
    components: tuple[str, ...]
    timestamp: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DebianPackage:
    """One .deb: `filename` is its pool path below the base of archive `archive`; `size` in bytes."""

    name: str
    version: str
    architecture: str
    archive: str
    filename: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """The digests that a build of this lock must give: builder version, and layer name -> sha256 of its bytes."""

    builder: int
    digests: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A whole `mlvm.lock`.

    `inputs` echo the part of the spec that was resolved, so that staleness can be explained without guessing.
    `system` is the guest's operating system, `boot` holds the .debs the guest kernel, its modules and the initramfs
    are taken from (never installed as packages), `tools` the file system tools that make the image. `guest_kernel`
    is the name of the package in `boot` with vmlinuz. Each list is sorted by name.
    """

    name: str
    inputs: Mapping[str, object]
    architecture: str
    guest_kernel: str
    archives: tuple[Archive, ...]
    system: tuple[DebianPackage, ...]
    boot: tuple[DebianPackage, ...]
    tools: tuple[DebianPackage, ...]
    python: Pylock
    image: ImageRecord | None = field(default=None)

    def debs(self) -> tuple[DebianPackage, ...]:
        """Every .deb of the lock, from all three lists."""
        return self.system + self.boot + self.tools

    def urls(self, package: DebianPackage) -> tuple[str, ...]:
        """Places to fetch `package` from, best first: the mirror, then the archive's history."""
        archive = next(found for found in self.archives if found.name == package.archive)
        return (
            f"{archive.uri}/{package.filename}",
            f"{archive.snapshot}/{archive.timestamp}/{package.filename}",
        )
