"""How many machines fit on a host: the private RAM of idle ones, side by side, and RAM that a guest gives back.

Machines of one box are started warm, torch imported in the kernel that waits in each: 1, 2, 4, 8 and 16 of them at
once. What each has to itself is what the host's kernel says (RssAnon, and mapping by mapping, /proc/PID/smaps): guest
RAM it has written to, translated code (under emulation), QEMU itself. What all map of the saved RAM is there once. The
baseline is a machine of the same box that booted, with a cell run in its kernel.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from jupyter_client import BlockingKernelClient, KernelManager

from benchmarks.bench import Bench, environment
from benchmarks.measures import Bar, Measure, Series
from benchmarks.warm import MLVM, own_wheels, versions
from mlvm import process
from mlvm.image.store import Store
from mlvm.lock.text import load as load_lock
from mlvm.machine.qemu import run_record
from mlvm.machine.record import load as load_record
from mlvm.paths import LOCK_NAME, SPEC_NAME, Home

STEPS = (1, 2, 4, 8, 16)
#: Fewer of them for a first look: `MLVM_BENCH_MACHINES=4`.
MOST = "MLVM_BENCH_MACHINES"
MEMORY = 1 << 30
#: Seconds in which a machine that was just started becomes idle.
SETTLE = 15.0
PATIENCE = 600.0
IDLE = Bar(of="ours", limit=120)
#: A further machine costs no more than the first.
FLAT = Bar(of="ratio", limit=1.1)
RETURNED = Bar(of="ratio", limit=0.9, at_least=True)
CELL = "import torch; print(torch.arange(10).sum())"
PACKAGES = ("torch", "numpy")
MB = 1e6
#: What a guest allocates and frees again.
BLOCK = 500_000_000
HOLD = f"import os, time; b = os.urandom(1) * {BLOCK}; print(len(b), flush=True); time.sleep(3600)"
#: Seconds in which a guest tells of what it has freed: it reports every two, and only whole blocks of pages.
REPORTED = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Private:
    """RAM that one machine has to itself, in bytes, and its part of what others map as well (Pss)."""

    guest: int
    code: int
    qemu: int
    fair: int

    @property
    def whole(self) -> int:
        """All of it (RssAnon)."""
        return self.guest + self.code + self.qemu


def private(smaps: str, memory: int) -> Private:
    """Return what /proc/PID/smaps says of a machine with so much memory."""
    found = {"guest": 0, "code": 0, "qemu": 0}
    fair, kind = 0, ""
    for line in smaps.splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+", line):
            size = int(mapping[2], 16) - int(mapping[1], 16)
            kind = "code" if "wx" in mapping[3] else "guest" if size == memory else "qemu"
        elif line.startswith("Anonymous:"):
            found[kind] += int(line.split()[1]) * 1024
        elif line.startswith("Pss:"):
            fair += int(line.split()[1]) * 1024
    return Private(**found, fair=fair)


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """The project whose machines are measured."""

    project: Path
    home: Home
    env: Mapping[str, str]

    def up(self, name: str, *options: str, project: Path | None = None) -> None:
        """Bring up a machine."""
        words = [MLVM, "up", f"{project or self.project}", "--name", name, "--frozen", "--progress", "none"]
        process.run([*words, *options], env={**self.env, "MLVM_WARM": "saved"}, timeout=PATIENCE)

    def destroy(self, name: str) -> None:
        """Remove a machine, if there is one."""
        if load_record(self.home, name) is not None:
            process.run([MLVM, "destroy", "--yes", name], env=self.env, timeout=PATIENCE)

    def look(self, name: str) -> Private:
        """Return what a running machine has to itself."""
        record = load_record(self.home, name)
        run = run_record.load(record) if record is not None else None
        assert run is not None, f"{name} does not run"
        return private(Path(f"/proc/{run.pid}/smaps").read_text(), MEMORY)

    def kernel(self, name: str) -> Kernel:
        """Return a kernel in a machine."""
        words = ["kernel", "install", f"{self.project}", "--name", name, "--machine", name]
        process.run([MLVM, *words], env=self.env)
        return Kernel(name)


class Kernel:
    """A kernel in a machine, which stays after its cell."""

    def __init__(self, name: str) -> None:
        self.manager = KernelManager(kernel_name=name)
        self.manager.start_kernel()
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels(hb=False)
        self.client.wait_for_ready(timeout=PATIENCE)

    def run(self, cell: str) -> None:
        """Run a cell, which must end well."""
        reply = self.client.execute_interactive(cell, timeout=PATIENCE, output_hook=lambda _: None)
        assert reply["content"]["status"] == "ok", reply["content"]

    def close(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def measure(bench: Bench) -> Sequence[Measure]:
    """Build and warm up once, then let crowds and the booted machine take turns."""
    box = _prepared(bench)
    steps = tuple(step for step in STEPS if step <= int(os.environ.get(MOST, STEPS[-1])))
    rounds = bench.rounds(
        {
            "warm": lambda: _crowd(bench, box, steps),
            "booted": lambda: _booted(box),
            "returned": lambda: _returned(box),
        }
    )
    booted = _series("booted", [[one] for one in rounds["booted"]])
    crowds = [
        Measure(
            name=f"{step} at once, idle",
            unit="MB",
            ours=_series("mlvm", [crowd[step] for crowd in rounds["warm"]]),
            baseline=booted,
            bar=IDLE,
        )
        for step in steps
    ]
    last = steps[-1]
    cells = _series("mlvm", [crowd[0] for crowd in rounds["warm"]])
    first = tuple(_total(crowd[1]) for crowd in rounds["warm"])
    further = tuple((_total(crowd[last]) - _total(crowd[1])) / (last - 1) for crowd in rounds["warm"])
    fair = tuple(sum(one.fair for one in crowd[last]) / last / MB for crowd in rounds["warm"])
    taken, back = zip(*rounds["returned"], strict=True)
    return [
        *crowds,
        Measure(name=f"{last} at once, a cell run in each", unit="MB", ours=cells, baseline=booted, bar=IDLE),
        Measure(
            name="each further machine", unit="MB", ours=Series(name="further", samples=further),
            baseline=Series(name="the first", samples=first), bar=FLAT,
        ),
        Measure(
            name=f"{last} at once, with their parts of what they share", unit="MB",
            ours=Series(name="mlvm", samples=fair), baseline=booted,
        ),
        Measure(
            name="RAM back on the host after the guest freed it", unit="MB",
            ours=Series(name="given back", samples=back), baseline=Series(name="taken", samples=taken),
            bar=RETURNED,
        ),
    ]  # fmt: skip


def _prepared(bench: Bench) -> Box:
    """Lock, build and warm up the box; make the project whose machine gives memory back."""
    folder = bench.folder / "density"
    project, elastic = folder / "project", folder / "elastic"
    root = folder / "home"
    (root / "cache/store").mkdir(parents=True)
    (root / "cache/store/blobs").symlink_to(Store(bench.home).blobs.folder.resolve())
    env = environment(MLVM_HOME=root, JUPYTER_DATA_DIR=folder / "jupyter", IPYTHONDIR=folder / "ipython")
    os.environ.update(
        {name: env[name] for name in ("MLVM_HOME", "JUPYTER_DATA_DIR", "IPYTHONDIR", "MLVM_WARM")}
    )
    shape: dict[str, object] = {"cpus": 2, "memory": "1 GiB", "disk": "2 GiB"}
    spec = {"name": "density", "debian": "bookworm", "python": "3.11", "packages": list(PACKAGES)}
    for path, more in (
        (project, {"machine": shape, "preload": ["torch"]}),
        (elastic, {"machine": {**shape, "memory": {"min": "256 MiB", "max": "1 GiB"}}}),
    ):
        path.mkdir(parents=True)
        (path / SPEC_NAME).write_text(json.dumps({**spec, **more}))  # JSON is YAML
    process.run([MLVM, "lock", f"{project}"], env={**env, **own_wheels(folder)}, timeout=1800)
    (elastic / LOCK_NAME).write_bytes((project / LOCK_NAME).read_bytes())
    process.run([MLVM, "build", "--warm", f"{project}"], env=env, timeout=3600)
    bench.notes.append(
        f"{versions(load_lock(project / LOCK_NAME), PACKAGES)}; each machine has 2 CPUs and 1 GiB"
    )
    return Box(project=project, home=Home.find(), env=env)


def _crowd(bench: Bench, box: Box, steps: Sequence[int]) -> dict[int, list[Private]]:
    """Return what machines have to themselves, by their number; at 0 that of the last after a cell in each."""
    found: dict[int, list[Private]] = {}
    names = [f"d{number}" for number in range(1, steps[-1] + 1)]
    kernels: list[Kernel] = []
    try:
        for number, name in enumerate(names, start=1):
            box.up(name)
            if number in steps:
                time.sleep(SETTLE)
                found[number] = [box.look(other) for other in names[:number]]
                bench.say(f"{number}: {_median(found[number]):.0f} MB each")
        for name in names:
            kernels.append(box.kernel(name))
            kernels[-1].run(CELL)
        time.sleep(SETTLE)
        found[0] = [box.look(name) for name in names]
        bench.say(f"a cell in each: {_median(found[0]):.0f} MB each")
    finally:
        for kernel in kernels:
            kernel.close()
        for name in names:
            box.destroy(name)
    return found


def _booted(box: Box) -> Private:
    """Return what a machine that booted has to itself after the same cell."""
    try:
        box.up("booted", "--cold")
        kernel = box.kernel("booted")
        try:
            kernel.run(CELL)
            time.sleep(SETTLE)
            return box.look("booted")
        finally:
            kernel.close()
    finally:
        box.destroy("booted")


def _returned(box: Box) -> tuple[float, float]:
    """Return how many MB a guest's program took of the host, and how many came back after it ended."""
    name = "elastic"
    hold = f"exec python3 -c '{HOLD}'"
    try:
        box.up(name, project=box.project.with_name("elastic"))
        time.sleep(SETTLE)
        before = box.look(name).whole
        run = ["run", name, "--", "sh", "-c", f"{hold} > /tmp/held & "]
        process.run([MLVM, *run], env=box.env, timeout=PATIENCE)
        wait = "until grep -q 0 /tmp/held; do sleep 1; done"
        process.run([MLVM, "run", name, "--", "sh", "-c", wait], env=box.env, timeout=PATIENCE)
        held = box.look(name).whole
        process.run([MLVM, "run", name, "--", "pkill", "-f", "urandom"], env=box.env, timeout=PATIENCE)
        deadline, after = time.monotonic() + REPORTED, held
        while time.monotonic() < deadline and held - after < held - before:
            time.sleep(2)
            after = box.look(name).whole
        return (held - before) / MB, (held - after) / MB
    finally:
        box.destroy(name)


def _total(crowd: Sequence[Private]) -> float:
    return sum(one.whole for one in crowd) / MB


def _median(crowd: Sequence[Private]) -> float:
    return median(one.whole for one in crowd) / MB


def _series(name: str, crowds: Sequence[Sequence[Private]]) -> Series:
    """Return the mean machine of each crowd, by what its memory is for."""
    stages = {
        label: tuple(sum(getattr(one, field) for one in crowd) / len(crowd) / MB for crowd in crowds)
        for label, field in (("guest", "guest"), ("translated code", "code"), ("QEMU itself", "qemu"))
    }
    samples = tuple(_total(crowd) / len(crowd) for crowd in crowds)
    return Series(name=name, samples=samples, stages=stages)
