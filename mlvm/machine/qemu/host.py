"""What the host offers, looked at once and frozen, so that everything decided from it is a pure function."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from mlvm import process
from mlvm.errors import ProgramError

QEMU = "qemu-system-x86_64"
#: Debian 12 has 7.2 and Ubuntu 22.04 6.2; older ones lack options we use.
OLDEST = (6, 2)


class Accelerator(StrEnum):
    """What runs the guest's instructions (QEMU's words)."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, kw_only=True, slots=True)
class HostProbe:
    """The host as far as machines depend on it; `memory` in bytes, `boot_id` changes with every boot."""

    qemu: str
    qemu_version: str
    page_size: int
    cpus: int
    memory: int
    boot_id: str


def probe_host() -> HostProbe:
    """Look at this host. Raises ProgramError when QEMU is missing or too old."""
    qemu = process.require_program(QEMU)
    version = _version_of(qemu, Path(qemu).stat().st_mtime_ns)
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise ProgramError(
            f"QEMU {version} is too old: at least {OLDEST[0]}.{OLDEST[1]} is needed",
            hint="install QEMU from a newer release of your distribution",
        )
    return HostProbe(
        qemu=qemu,
        qemu_version=version,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        boot_id=boot_id(),
    )


@cache
def _version_of(qemu: str, _changed: int) -> str:
    """Return what a QEMU says of itself; it is asked once, until it is another file."""
    return parse_version(process.run([qemu, "--version"], timeout=20).stdout.decode(errors="replace"))


def parse_version(text: str) -> str:
    """Return the version in the output of `qemu-system-x86_64 --version`. Raises ProgramError."""
    found = re.search(r"version (\d+\.\d+\.\d+)", text)
    if not found:
        raise ProgramError("QEMU does not say its version", details=text[:400])
    return found[1]


def boot_id(root: Path = Path("/proc")) -> str:
    """Return the id of the host's present boot; process ids mean nothing in another one."""
    try:
        return (root / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
