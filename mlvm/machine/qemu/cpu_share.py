"""A machine's share of the CPUs, when there are fewer than the machines would use.

By cgroup v2's `cpu.weight`, in a leaf of the machine's own, where this user may make one: a machine then has its share
whatever its number of CPUs. Else by niceness, which the scheduler turns into a weight for each *thread*: a machine that
keeps two CPUs busy weighs twice what one does. Anybody may be nicer; less nice than others (a weight above 100) may be
only who has the right to. Nothing here fails a machine: what could not be had is said.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

DEFAULT = 100
CGROUPS, PROC = Path("/sys/fs/cgroup"), Path("/proc")
#: The folder of the leaves, below the highest group that this user may change.
FOLDER = "mlvm"
#: Each step of niceness changes a thread's weight by this factor.
STEP = 1.25


def give(pid: int, weight: int, machine: Path, *, cgroups: Path = CGROUPS, proc: Path = PROC) -> str:
    """Give process `pid`, which runs the machine in folder `machine`, its weight; say what could not be had."""
    if (group := find_group(cgroups, proc)) is not None:
        try:
            _into_leaf(pid, weight, group / FOLDER / _leaf_name(machine))
        except OSError:
            pass  # delegated, and yet not ours to change: niceness still works
        else:
            return ""
    return set_niceness(pid, niceness(weight), proc=proc)


def forget(machine: Path, *, cgroups: Path = CGROUPS, proc: Path = PROC) -> None:
    """Remove the leaf of a machine that does not run any more."""
    if (group := find_group(cgroups, proc)) is not None:
        with suppress(OSError):  # there is none, or somebody is still in it
            (group / FOLDER / _leaf_name(machine)).rmdir()


def find_group(cgroups: Path = CGROUPS, proc: Path = PROC) -> Path | None:
    """Return the highest group above us below which this user may share out CPUs; None where there is none."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
        own = next(line[len("0::/") :] for line in lines if line.startswith("0::/"))
    except (OSError, StopIteration):
        return None
    parts = Path(own).parts
    for depth in range(len(parts) + 1):
        group = cgroups.joinpath(*parts[:depth])
        if _shares_cpus(group):
            return group
    return None


def _shares_cpus(group: Path) -> bool:
    """Tell whether this user may make groups in `group`, move processes into them, and weigh their CPU time."""
    try:
        controllers = (group / "cgroup.controllers").read_text().split()
        enabled = (group / "cgroup.subtree_control").read_text().split()
        occupied = bool((group / "cgroup.procs").read_text().strip()) and (group / "cgroup.type").exists()
    except OSError:
        return False
    needed = [
        group,
        group / "cgroup.procs",
        *([] if "cpu" in enabled else [group / "cgroup.subtree_control"]),
    ]
    writable = all(os.access(path, os.W_OK) for path in needed)
    # A group other than the root (which has no type) may hold processes or share out, not both.
    return "cpu" in controllers and writable and not (occupied and "cpu" not in enabled)


def _into_leaf(pid: int, weight: int, leaf: Path) -> None:
    folder = leaf.parent
    for group in (folder.parent, folder):
        group.mkdir(exist_ok=True)
        if "cpu" not in (group / "cgroup.subtree_control").read_text().split():
            (group / "cgroup.subtree_control").write_text("+cpu")
    leaf.mkdir(exist_ok=True)
    (leaf / "cpu.weight").write_text(str(weight))
    (leaf / "cgroup.procs").write_text(str(pid))


def _leaf_name(machine: Path) -> str:
    return f"{machine.name}-{hashlib.sha256(os.fsencode(machine)).hexdigest()[:8]}"


def niceness(weight: int) -> int:
    """Return the niceness that comes nearest to a weight; 100 is 0."""
    steps = -math.log(weight / DEFAULT) / math.log(STEP)
    return max(-20, min(19, round(steps)))


def set_niceness(pid: int, wanted: int, *, proc: Path = PROC) -> str:
    """Make every thread of a process as nice as `wanted`; say so when that is not allowed."""
    try:
        for thread in _threads(pid, proc):
            with suppress(ProcessLookupError):
                if os.getpriority(os.PRIO_PROCESS, thread) != wanted:
                    os.setpriority(os.PRIO_PROCESS, thread, wanted)
        _set_autogroup(pid, wanted, proc)
    except PermissionError:
        return (
            f"niceness {wanted} is not this user's to give: it takes root, or cgroups delegated to the user"
        )
    except OSError as failed:
        return f"it has no niceness {wanted}: {failed.strerror or failed}"
    return ""


def _set_autogroup(pid: int, wanted: int, proc: Path) -> None:
    """Let niceness count beyond the session: with autogroups, each session's threads are weighed as one."""
    try:
        enabled = (proc / "sys/kernel/sched_autogroup_enabled").read_text().strip() == "1"
        group = proc / str(pid) / "autogroup"
        if enabled and f"nice {wanted}" not in group.read_text():
            group.write_text(str(wanted))
    except FileNotFoundError:
        return  # a kernel without them


def _threads(pid: int, proc: Path) -> Iterator[int]:
    for path in (proc / str(pid) / "task").iterdir():
        yield int(path.name)


def how(cgroups: Path = CGROUPS, proc: Path = PROC) -> str:
    """Say how shares are given on this host."""
    group = find_group(cgroups, proc)
    if group is not None:
        return f"cgroup v2, below `{group}`"
    may_favour = os.geteuid() == 0
    return "niceness: cgroup v2 shares no CPUs here" + ("" if may_favour else "; weights above 100 take root")
