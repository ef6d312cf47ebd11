"""The lock: exactly what a spec means, as frozen data, and its text form.

TOML in the manner of other lock files: one block a package, sorted, so that a change of one package is a change of
one block. The Python part is a whole PEP 751 document (`packaging.pylock` reads and checks it), cut down to the one
wheel per package that this box can use.
"""

from __future__ import annotations

import re
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
class BoxPin:
    """A published box that was made from this lock: what the file must be that is added under this name and version."""

    name: str
    version: str
    provider: str
    architecture: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaRecord:
    """The CUDA among the wheels: "12.1", its cuDNN, and what it needs of a host: the oldest driver and GPU.

    Empty texts are not known. `table` is the date of the table of compatibility that said so.
    """

    version: str
    cudnn: str
    driver: str
    arch: str
    table: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Interpreter:
    """A Python that the Debian release does not bring: its full version, and the archive it is unpacked from."""

    version: str
    url: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """How a package is built from its sdist: `requires` are the wheels that the build needs, as PEP 751 has them.

    The sdist and the wheel that comes out of it stand in the lock's `python`.
    """

    name: str
    requires: Pylock


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """A whole `mlvm.lock`.

    `inputs` echo the part of the spec that was resolved, so that staleness can be explained without guessing.
    `system` is the guest's operating system, `apt` what the spec asked for besides, `boot` holds the .debs the guest
    kernel, its modules and the initramfs are taken from (never installed as packages), `tools` the file system tools
    that make the image. `guest_kernel` is the name of the package in `boot` with vmlinuz. `box` is what only a box for
    other hypervisors needs: the guest kernel with drivers for all of them, and GRUB; locks of an older mlvm have none.
    Each list is sorted by name. `published` pins boxes that were made from this lock and published.
    `interpreter` is None where the release's own Python is the box's. `builds` are of the packages in `python` that
    have an sdist, sorted by name.
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
    apt: tuple[DebianPackage, ...] = ()
    cuda: CudaRecord | None = None
    image: ImageRecord | None = field(default=None)
    box: tuple[DebianPackage, ...] = ()
    published: tuple[BoxPin, ...] = ()
    interpreter: Interpreter | None = None
    builds: tuple[Build, ...] = ()

    def debs(self) -> tuple[DebianPackage, ...]:
        """Every .deb that the image is made with, from four lists."""
        return self.system + self.apt + self.boot + self.tools

    @property
    def system_python(self) -> str:
        """The Python of the Debian release, "3.11": the agent's, and the box's unless that has its own."""
        names = (re.fullmatch(r"python(3\.[0-9]+)-minimal", package.name) for package in self.system)
        return next((name[1] for name in names if name), str(self.inputs["python"]))

    def urls(self, package: DebianPackage) -> tuple[str, ...]:
        """Places to fetch `package` from, best first: the mirror, then the archive's history."""
        archive = next(found for found in self.archives if found.name == package.archive)
        return (
            f"{archive.uri}/{package.filename}",
            f"{archive.snapshot}/{archive.timestamp}/{package.filename}",
        )
