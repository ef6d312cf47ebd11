"""The spec: what a person wants, as frozen data.

This module is the vocabulary; `reader` makes it from YAML, `schema` describes it to editors. Defaults live here
and nowhere else. A spec holds wishes only: what they mean exactly is the lock's matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

#: Debian releases a box can be made of, and the Python each brings (Debian's own default python3).
DEBIAN_PYTHON = MappingProxyType({"bullseye": "3.9", "bookworm": "3.11", "trixie": "3.13"})
DEBIAN_NUMBER = MappingProxyType({"bullseye": 11, "bookworm": 12, "trixie": 13})
#: Every Python a box can have: a release's own, or a build that runs on any release; "t" is free-threaded (no GIL).
#: There is no 3.13t: no version of tornado, which every kernel needs, has a wheel for that.
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.14t")

#: Where a machine has the code of packages that stay in the project.
EDITABLE = "/opt/mlvm/editable"

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineShape:
    """What the virtual machine is given: CPUs, memory and disk in bytes, and GPUs of the host.

    With `memory_min`, memory that the guest does not need goes back to the host, and may be taken down to that.
    `cpu_weight` is its share when machines compete; `disk_iops` the most disk operations in a second, None for any.
    """

    cpus: int = 2
    memory: int = 2 * GIB
    disk: int = 16 * GIB
    gpu: int = 0
    memory_min: int | None = None
    cpu_weight: int = 100
    disk_iops: int | None = None

    @property
    def elastic(self) -> bool:
        """Whether memory goes back to the host while it runs."""
        return self.memory_min is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class PortForward:
    """TCP port `guest` inside the machine, reachable at 127.0.0.1:`host` only."""

    guest: int
    host: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """When a machine counts as ready: a TCP `port` answers inside it, or a `command` line succeeds, in `seconds`."""

    port: int | None = None
    command: str | None = None
    seconds: int = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One of several machines of a spec. `after` are those (by `name`) that must be ready before it is started."""

    name: str
    shape: MachineShape
    after: tuple[str, ...] = ()
    ready: Ready | None = None
    ports: tuple[PortForward, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedFolder:
    """Folder `folder` of the host, relative to the spec, at `at` in the machine (None: at /work/NAME)."""

    folder: str
    at: str | None = None
    write: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Editable:
    """A package whose code stays in `folder`, relative to the spec, below `code` ("src", or "" for the folder itself).

    `entries` are its entry points by group, commands among them.
    """

    name: str
    version: str
    folder: str
    code: str = ""
    entries: Mapping[str, Mapping[str, str]] = field(default_factory=lambda: MappingProxyType({}))

    def resolution_inputs(self) -> dict[str, object]:
        """What of it is in the image, as plain data; not where it is on the host."""
        entries = {group: dict(found) for group, found in self.entries.items()}
        return {"name": self.name, "version": self.version, "code": self.code, "entries": entries}


@dataclass(frozen=True, kw_only=True, slots=True)
class CudaWish:
    """The CUDA that is wanted: "12.1", with cuDNN "8.9", the oldest driver "530" and GPUs ("8.6",) it must run on.

    `allow_unknown` lets pass what the table of compatibility does not know.
    """

    version: str
    cudnn: str | None = None
    nvcc: bool = False
    driver: str | None = None
    arch: tuple[str, ...] = ()
    allow_unknown: bool = False

    def resolution_inputs(self) -> dict[str, object]:
        """What of it decides the lock, as plain data: only what was said."""
        said = {"version": self.version, "cudnn": self.cudnn, "driver": self.driver, "arch": list(self.arch)}
        return {key: value for key, value in said.items() if value} | ({"nvcc": True} if self.nvcc else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """A whole `mlvm.yaml`, with its template already applied and its requirements file already read.

    `packages` are PEP 508 requirement strings, normalised by `packaging`, in the order written; `index` is where some
    of them come from instead of PyPI, by normalised name; `sdists` names (normalised, sorted) those that are built from
    their sources. `editable` are packages of the project, sorted by name; their dependencies are among `packages`, and
    their folders in `share`. `network` is "user" (the guest reaches out, nothing reaches
    in) or "none". `machines` are there instead of a single one when there are any; each is called NAME-MEMBER. `share`
    is None when nothing is said of it, which is not the same as nothing to share. `notes` are lines for a person about
    what was read
    and not used (hashes of a requirements file).
    """

    name: str
    debian: str = "bookworm"
    python: str = "3.11"
    packages: tuple[str, ...] = ()
    index: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    sdists: tuple[str, ...] = ()
    editable: tuple[Editable, ...] = ()
    apt: tuple[str, ...] = ()
    cuda: CudaWish | None = None
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    machine: MachineShape = field(default_factory=MachineShape)
    machines: tuple[Member, ...] = ()
    preload: tuple[str, ...] = ()
    network: str = "user"
    ports: tuple[PortForward, ...] = ()
    share: tuple[SharedFolder, ...] | None = None
    template: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    path: Path | None = field(default=None, compare=False)

    @property
    def debians_python(self) -> bool:
        """Whether the release's own Python is meant."""
        return DEBIAN_PYTHON[self.debian] == self.python

    def member_called(self, name: str) -> Member | None:
        """Return the one of `machines` that `name` means: its own name, or the machine's."""
        return next((one for one in self.machines if name in (one.name, self.machine_of(one))), None)

    def machine_of(self, member: Member) -> str:
        """Return the name of the machine that one of `machines` is."""
        return f"{self.name}-{member.name}"

    def resolution_inputs(self) -> dict[str, object]:
        """The part of the spec that decides the lock, as plain data; the rest may change without relocking."""
        inputs: dict[str, object] = {
            "debian": self.debian,
            "python": self.python,
            "packages": list(self.packages),
        }
        if self.index:
            inputs["index"] = dict(self.index)
        if self.sdists:
            inputs["sdists"] = list(self.sdists)
        if self.editable:
            inputs["editable"] = [package.resolution_inputs() for package in self.editable]
        if self.apt:
            inputs["apt"] = list(self.apt)
        if self.cuda is not None:
            inputs["cuda"] = self.cuda.resolution_inputs()
        return inputs
