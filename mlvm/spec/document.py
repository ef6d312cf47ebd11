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
DEBIAN_PYTHON = MappingProxyType({"bookworm": "3.11", "trixie": "3.13"})
DEBIAN_NUMBER = MappingProxyType({"bookworm": 12, "trixie": 13})

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineShape:
    """What the virtual machine is given: CPUs, and memory and disk in bytes."""

    cpus: int = 2
    memory: int = 2 * GIB
    disk: int = 16 * GIB


@dataclass(frozen=True, kw_only=True, slots=True)
class PortForward:
    """TCP port `guest` inside the machine, reachable at 127.0.0.1:`host` only."""

    guest: int
    host: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """A whole `mlvm.yaml`, with its template already applied and its requirements file already read.

    `packages` are PEP 508 requirement strings, normalised by `packaging`, in the order written. `network` is
    "user" (the guest reaches out, nothing reaches in) or "none". `notes` are lines for a person about what was read
    and not used (hashes of a requirements file).
    """

    name: str
    debian: str = "bookworm"
    python: str = "3.11"
    packages: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    machine: MachineShape = field(default_factory=MachineShape)
    preload: tuple[str, ...] = ()
    network: str = "user"
    ports: tuple[PortForward, ...] = ()
    template: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    path: Path | None = field(default=None, compare=False)

    def resolution_inputs(self) -> dict[str, object]:
        """The part of the spec that decides the lock, as plain data; the rest may change without relocking."""
        return {"debian": self.debian, "python": self.python, "packages": list(self.packages)}
