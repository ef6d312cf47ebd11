"""A cold start, from nothing running to the first cell, beside the stock way and beside a peer.

Ours is `Project.up` on a built image without any warm state, then Jupyter's manager and the first cell. The clock is a
person's; beside it stand QEMU's own processor seconds, which say more on a host that others use too, and what the guest
says itself of the time from its kernel's first instruction to the agent (the stock guest: to sshd).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from jupyter_client import KernelManager

from benchmarks.bench import Bench, environment
from benchmarks.first_cell import Clock, first_cell
from benchmarks.measures import Bar, Measure, Series
from benchmarks.peer import Peer
from benchmarks.stock import Stock
from mlvm.errors import ProgramError
from mlvm.events import SILENT, Observer
from mlvm.image.store import Store
from mlvm.kernel import kernelspec
from mlvm.machine.qemu import run_record
from mlvm.machine.record import load
from mlvm.machine.table import provider_for
from mlvm.machine.timings import guest_timings
from mlvm.paths import Home
from mlvm.project import Project

BOX = "python-3.11"
MACHINE = "bench-cold"
HALF = Bar(of="ratio", limit=0.5)
BOOT = Bar(of="ours", limit=6.0)


class Ours(Observer):
    """Our way, on an image that is built."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self._stages: dict[str, float] = {}

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        """Note it."""
        self._stages[stage] = seconds

    def sample(self) -> dict[str, float]:
        """Bring up a new machine and run a cell in it."""
        self._stages.clear()
        clock = Clock()
        try:
            record = self.project.up(MACHINE, frozen=True, observer=self)
            run = run_record.load(record)
            pid = run.pid if run else None
            clock.mark("reachable", pid)
            manager = KernelManager(kernel_name=MACHINE)
            manager.start_kernel()
            first_cell(manager.client(), lambda: None if manager.is_alive() else 1)
            clock.mark("cell", pid)
            guest = provider_for(record).guest(record)
            timings = guest_timings(guest, record.console_log.read_text(errors="replace"))
            clock.seconds["guest"] = sum(row.seconds for row in timings)
        finally:
            if (made := load(self.project.home, MACHINE)) is not None:
                provider_for(made).destroy(made, observer=SILENT)
        return clock.seconds | {f"stage {name}": seconds for name, seconds in self._stages.items()}


def measure(bench: Bench) -> Sequence[Measure]:
    """Build both guests, install the peer, let them take turns."""
    home = bench.folder / "home"
    (home / "cache/store").mkdir(parents=True)
    (home / "cache/store/blobs").symlink_to(Store(bench.home).blobs.folder.resolve())
    variables = environment(MLVM_HOME=home, JUPYTER_DATA_DIR=home / "jupyter", IPYTHONDIR=home / "ipython")
    os.environ.update(
        {name: variables[name] for name in ("MLVM_HOME", "JUPYTER_DATA_DIR", "IPYTHONDIR", "MLVM_WARM")}
    )
    project = Project.find(BOX, Path.cwd(), home=Home.find())
    project.build(frozen=True)
    kernelspec.install(project.spec(), project.folder, name=MACHINE, machine=MACHINE)
    lock = project.lock()
    assert lock is not None
    contestants = {"mlvm": Ours(project).sample, "stock": Stock(bench.kept / "stock", lock).sample}
    try:
        peer = Peer(bench.kept / "peer")
        peer.sample()  # unpacks its image
        contestants["peer"] = as_long_as_it_comes(peer, bench)
    except ProgramError as failed:
        bench.notes.append(f"the peer was not measured: {failed.message}")
    return measures(bench.rounds(contestants))


def as_long_as_it_comes(peer: Peer, bench: Bench) -> Callable[[], dict[str, float]]:
    """Return what samples the peer; once it has not come up it is not asked again, and the others go on."""
    gone = False

    def sample() -> dict[str, float]:
        nonlocal gone
        if not gone:
            try:
                return peer.sample()
            except ProgramError as failed:
                gone = True
                bench.notes.append(f"the peer did not come up in one of its turns: {failed.message}")
        return {}

    return sample


def measures(found: dict[str, list[dict[str, float]]]) -> list[Measure]:
    """Return what the samples come to."""
    ours, stock = found["mlvm"], found["stock"]
    first = Series(name="mlvm", samples=_all(ours, "cell"), stages=_stages(ours))
    compared = [
        Measure(
            name="first cell",
            unit="s",
            ours=first,
            baseline=Series(name="stock", samples=_all(stock, "cell"), stages=_halves(stock)),
            bar=HALF,
        ),
        Measure(
            name="QEMU's processor time for it",
            unit="s",
            ours=Series(name="mlvm", samples=_all(ours, "cell cpu")),
            baseline=Series(name="stock", samples=_all(stock, "cell cpu")),
        ),
        Measure(
            name="guest kernel to agent",
            unit="s",
            ours=Series(name="mlvm", samples=_all(ours, "guest")),
            baseline=Series(name="stock, to sshd", samples=_all(stock, "guest")),
            bar=BOOT,
        ),
    ]
    if peer := [one for one in found.get("peer", []) if one]:
        answered = Series(name="the peer, to its agent", samples=_all(peer, "agent"))
        compared.append(Measure(name="first cell", unit="s", ours=first, baseline=answered, bar=HALF))
    return compared


def _all(found: Sequence[dict[str, float]], name: str) -> tuple[float, ...]:
    return tuple(sample[name] for sample in found)


def _stages(found: Sequence[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    """Return the stages of a boot, and what remains before and after them."""
    names = [name for name in found[0] if name.startswith("stage ") and all(name in one for one in found)]
    booted = [sum(one[name] for name in names) for one in found]
    return {
        "plan, disk, QEMU, introduction": tuple(
            one["reachable"] - boot for one, boot in zip(found, booted, strict=True)
        ),
        **{name.removeprefix("stage "): _all(found, name) for name in names},
        "kernel and cell": tuple(one["cell"] - one["reachable"] for one in found),
    }


def _halves(found: Sequence[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    return {
        "boot to ssh": _all(found, "reachable"),
        "kernel and cell": tuple(one["cell"] - one["reachable"] for one in found),
    }
