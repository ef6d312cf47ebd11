"""The first cell through Vagrant, beside `vagrant up` alone on the same box, and beside the usual way.

Ours is `Project.up` with Vagrant as provider, then Jupyter's manager and the first cell, in a new machine each time.
`vagrant up` alone uses the Vagrantfile that ours uses, and ends before there is any kernel. The usual way is a stock
base box whose provisioner installs the same packages by pip. Vagrant has the boxes beforehand; whoever is first in the
first round also waits until its box is copied into libvirt's pool, a second or two.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jupyter_client import KernelManager

from benchmarks import host
from benchmarks.bench import Bench, environment
from benchmarks.first_cell import Clock, first_cell
from benchmarks.measures import Bar, Measure, Series
from benchmarks.stock_box import NAME as STOCK_BOX
from benchmarks.stock_box import StockBox
from mlvm.box import vagrantfile
from mlvm.events import SILENT, Observer
from mlvm.image.store import Store
from mlvm.kernel import kernelspec
from mlvm.machine.record import load
from mlvm.machine.table import provider_for
from mlvm.machine.vagrant import domain
from mlvm.paths import Home
from mlvm.project import Project

BOX = "python-3.11"
MACHINE = "bench-vagrant"
CLOSE = Bar(of="ratio", limit=1.3)
_NO_FOLDER = 'Vagrant.configure("2") { |config| config.vm.synced_folder ".", "/vagrant", disabled: true }\n'


class Ours(Observer):
    """Our way, through Vagrant."""

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
            self.project.up(MACHINE, frozen=True, run_by="vagrant", observer=self)
            clock.mark("up", None)
            manager = KernelManager(kernel_name=MACHINE)
            manager.start_kernel()
            first_cell(manager.client(), lambda: None if manager.is_alive() else 1)
            clock.mark("cell", None)
        finally:
            if (made := load(self.project.home, MACHINE)) is not None:
                provider_for(made).destroy(made, observer=SILENT)
        return clock.seconds | {f"stage {name}": seconds for name, seconds in self._stages.items()}


class Alone:
    """`vagrant up` on the same box, and no more."""

    def __init__(self, folder: Path, project: Project) -> None:
        folder.mkdir()
        self.folder = folder
        lock = project.lock()
        assert lock is not None
        spec = replace(project.spec(), ports=())
        vagrantfile.write(folder, vagrantfile.render(spec, lock, boxes={}) + _NO_FOLDER)

    def sample(self) -> dict[str, float]:
        """Bring up a new machine."""
        try:
            began = time.monotonic()
            self._vagrant("up", "--provider", "libvirt")
            return {"up": time.monotonic() - began}
        finally:
            self._vagrant("destroy", "--force")

    def _vagrant(self, *words: str) -> None:
        subprocess.run(
            ["vagrant", *words],
            cwd=self.folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


def measure(bench: Bench) -> Sequence[Measure]:
    """Give Vagrant both boxes, then let the three take turns."""
    subprocess.run([host.ROOT / "tools/libvirt-start"], check=True)
    home = bench.folder / "home"
    (home / "cache/store").mkdir(parents=True)
    (home / "cache/store/blobs").symlink_to(Store(bench.home).blobs.folder.resolve())
    driver = os.environ.get("MLVM_LIBVIRT_DRIVER", "qemu")
    more = {
        "MLVM_HOME": home, "JUPYTER_DATA_DIR": home / "jupyter", "IPYTHONDIR": home / "ipython",
        "VAGRANT_HOME": home / "vagrant", "MLVM_LIBVIRT_DRIVER": driver,
    }  # fmt: skip
    variables = environment(**more)
    os.environ.update({name: variables[name] for name in (*more, "MLVM_WARM")})
    project = Project.find(BOX, Path.cwd(), home=Home.find())
    project.build(frozen=True)
    kernelspec.install(project.spec(), project.folder, name=MACHINE, machine=MACHINE)
    lock = project.lock()
    assert lock is not None
    bench.notes.append(f"libvirt's driver: {driver}, for all of them")
    try:
        made = project.export_box("libvirt", output=bench.folder / "ours.box", frozen=True)
        added = ["--name", vagrantfile.box_name(lock), "--provider", "libvirt", str(made.path)]
        subprocess.run(["vagrant", "box", "add", *added], check=True, stdout=subprocess.DEVNULL)
        ours = Ours(project)
        alone = Alone(bench.folder / "alone", project)
        stock = StockBox(
            bench.kept / "stock-box", lock, Store(bench.home).blobs, shape=project.spec().machine
        )
        found = bench.rounds({"mlvm": ours.sample, "vagrant up": alone.sample, "stock": stock.sample})
    finally:
        for box in (vagrantfile.box_name(lock), STOCK_BOX):
            domain.drop_cut_short(box, size=1 << 60)
    return measures(found)


def measures(found: dict[str, list[dict[str, float]]]) -> list[Measure]:
    """Return what the samples come to."""
    ours, alone, stock = found["mlvm"], found["vagrant up"], found["stock"]
    first = Series(name="mlvm", samples=_all(ours, "cell"), stages=_stages(ours))
    return [
        Measure(
            name="first cell, beside no more than the machine",
            unit="s",
            ours=first,
            baseline=Series(name="vagrant up, same box", samples=_all(alone, "up")),
            bar=CLOSE,
        ),
        Measure(
            name="first cell, beside a base box and pip",
            unit="s",
            ours=first,
            baseline=Series(
                name="stock box, pip",
                samples=_all(stock, "cell"),
                stages={
                    "vagrant up, pip": _all(stock, "up"),
                    "kernel and cell": tuple(one["cell"] - one["up"] for one in stock),
                },
            ),
        ),
    ]


def _all(found: Sequence[dict[str, float]], name: str) -> tuple[float, ...]:
    return tuple(sample[name] for sample in found)


def _stages(found: Sequence[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    """Return the stages of a start that each sample has, and what remains beside and after them."""
    names = [name for name in found[0] if name.startswith("stage ") and all(name in one for one in found)]
    told = [sum(one[name] for name in names) for one in found]
    return {
        "plan, Vagrant's own": tuple(one["up"] - known for one, known in zip(found, told, strict=True)),
        **{name.removeprefix("stage "): _all(found, name) for name in names},
        "kernel and cell": tuple(one["cell"] - one["up"] for one in found),
    }
