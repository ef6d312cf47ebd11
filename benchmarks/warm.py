"""A warm start beside a local kernel: from nothing running to the answer of a first cell that imports a framework.

Ours is all that a person waits for: a fresh machine by `mlvm up` (a whole process, the Python that starts it included),
then Jupyter's manager starts the kernel in it, then the cell. Once from standby, which is made before the clock runs,
as it is made on an idle host, and once from the saved state alone. The baseline is Jupyter's manager and an ipykernel
on the host, in an environment of the very same wheels, compiled, its files in the page cache after the first round.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jupyter_client import BlockingKernelClient, KernelManager

from benchmarks.bench import Bench, environment
from benchmarks.measures import Bar, Measure, Series
from mlvm import process
from mlvm.image.store import Store
from mlvm.lock.document import Lock
from mlvm.lock.text import load as load_lock
from mlvm.paths import LOCK_NAME, SPEC_NAME

BIN = Path(sys.executable).parent
MLVM = BIN / "mlvm"
MACHINE = KERNEL = "bench-warm"
PATIENCE = 300.0
#: A folder of wheels that come before the package index: whoever has a torch without CUDA saves gigabytes.
WHEELS = "MLVM_BENCH_WHEELS"
BAR = Bar(of="ratio", limit=0.25)


@dataclass(frozen=True, kw_only=True, slots=True)
class Framework:
    """What is imported, and the first cell a person runs with it."""

    name: str
    packages: tuple[str, ...]
    preload: tuple[str, ...]
    cell: str
    memory: str = "2 GiB"


FRAMEWORKS = (
    Framework(
        name="torch",
        packages=("torch", "numpy"),
        preload=("torch",),
        cell="import torch; print(torch.arange(10).sum())",
    ),
    Framework(
        name="scikit-learn",
        packages=("numpy", "pandas", "scikit-learn"),
        preload=("pandas", "sklearn.linear_model"),
        cell="import pandas; from sklearn.linear_model import LinearRegression; print(LinearRegression())",
    ),
)


def measure(bench: Bench) -> Sequence[Measure]:
    """Measure each framework: lock, build and warm up once, then let both take turns."""
    return [one for framework in FRAMEWORKS for one in _measure(bench, framework)]


def _measure(bench: Bench, framework: Framework) -> Sequence[Measure]:
    folder = bench.folder / framework.name
    project = folder / "project"
    project.mkdir(parents=True)
    home = folder / "home"
    (home / "cache/store").mkdir(parents=True)
    (home / "cache/store/blobs").symlink_to(Store(bench.home).blobs.folder.resolve())
    variables = environment(
        MLVM_HOME=home, JUPYTER_DATA_DIR=folder / "jupyter", IPYTHONDIR=folder / "ipython"
    )
    spec = {
        "name": KERNEL,
        "debian": "bookworm",
        "python": "3.11",
        "packages": list(framework.packages),
        "preload": list(framework.preload),
        "machine": {"cpus": 2, "memory": framework.memory, "disk": "8 GiB"},
    }
    (project / SPEC_NAME).write_text(json.dumps(spec))  # JSON is YAML
    locking = {**variables, **own_wheels(folder)}
    process.run([MLVM, "lock", f"{project}"], env=locking, timeout=1800)
    bench.say(f"{framework.name}: locked")
    process.run([MLVM, "build", "--warm", f"{project}"], env=variables, timeout=3600)
    process.run(
        [MLVM, "kernel", "install", f"{project}", "--name", KERNEL, "--machine", MACHINE], env=variables
    )
    lock = load_lock(project / LOCK_NAME)
    local = _environment_of(lock, Store(bench.home).blobs.path, folder / "local")
    bench.notes.append(f"{framework.name}: {versions(lock, framework.packages)}")
    os.environ.update(
        {name: variables[name] for name in ("MLVM_HOME", "JUPYTER_DATA_DIR", "IPYTHONDIR", "MLVM_WARM")}
    )
    _local_kernelspec(local, folder / "jupyter")

    def up(allowed: str) -> None:
        process.run(
            [MLVM, "up", f"{project}", "--name", MACHINE, "--frozen", "--progress", "none"],
            env={**variables, "MLVM_WARM": allowed},
            timeout=PATIENCE,
        )

    def ours(allowed: str) -> dict[str, float]:
        try:
            return _clocked(framework.cell, KERNEL, project, before=lambda: up(allowed))
        finally:
            process.run([MLVM, "destroy", "--yes", MACHINE], env=variables, timeout=PATIENCE)

    def from_standby() -> dict[str, float]:
        process.run([MLVM, "standby", f"{project}"], env={**variables, "MLVM_WARM": "use"}, timeout=PATIENCE)
        return ours("use")

    contestants = {
        "from standby": from_standby,
        "from the saved state": lambda: ours("saved"),
        "local": lambda: _clocked(framework.cell, "local", project),
    }
    series = {name: _series(name, found) for name, found in bench.rounds(contestants).items()}
    local = series.pop("local")
    return [
        Measure(
            name=f"import {framework.name}, {name}",
            unit="s",
            ours=replace(one, name="mlvm"),
            baseline=local,
            bar=BAR if name == "from standby" else None,
        )
        for name, one in series.items()
    ]


def _clocked(
    cell: str, kernel: str, folder: Path, *, before: Callable[[], object] = lambda: None
) -> dict[str, float]:
    """Start everything for a notebook in `folder`, run the cell, end the kernel; return the seconds of each stage."""
    marks = [("", time.monotonic())]
    before()
    marks.append(("machine", time.monotonic()))
    manager = KernelManager(kernel_name=kernel)
    manager.start_kernel(cwd=f"{folder}")
    client: BlockingKernelClient = manager.blocking_client()
    client.start_channels(hb=False)
    try:
        # As JupyterLab does it: `wait_for_ready` would add a fifth of a second of waiting for nothing.
        client.kernel_info()
        client.get_shell_msg(timeout=PATIENCE)
        client.get_iopub_msg(timeout=PATIENCE)
        marks.append(("kernel", time.monotonic()))
        printed: list[str] = []
        client.execute_interactive(
            cell, timeout=PATIENCE, output_hook=lambda message: printed.append(str(message["content"]))
        )
        marks.append(("cell", time.monotonic()))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if any("Traceback" in text for text in printed):
        raise RuntimeError("".join(printed))
    return {name: now - then for (_, then), (name, now) in itertools.pairwise(marks)}


def _series(name: str, found: Sequence[dict[str, float]]) -> Series:
    stages = {stage: tuple(sample[stage] for sample in found) for stage in found[0]}
    return Series(name=name, samples=tuple(sum(sample.values()) for sample in found), stages=stages)


def _environment_of(lock: Lock, blob: Callable[[str], Path], folder: Path) -> Path:
    """Make a virtual environment of the lock's wheels on the host, compiled, and return its Python."""
    uv = BIN / "uv"
    wheels = folder.with_name("wheels")
    wheels.mkdir()
    files = []
    for package in lock.python.packages:
        for wheel in package.wheels or ():
            files.append(wheels / wheel.filename)
            files[-1].symlink_to(blob(wheel.hashes["sha256"]))
    process.run([uv, "venv", "--quiet", "--no-config", "--python", sys.executable, folder])
    python = folder / "bin/python"
    process.run(
        [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--no-config", "--compile-bytecode",
         "--cache-dir", folder.with_name("uv"), "--python", python, *files],
        timeout=1800,
    )  # fmt: skip
    return python


def _local_kernelspec(python: Path, jupyter: Path) -> None:
    folder = jupyter / "kernels/local"
    folder.mkdir(parents=True)
    document = {
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "local",
        "language": "python",
    }
    (folder / "kernel.json").write_text(json.dumps(document))


def own_wheels(folder: Path) -> dict[str, str]:
    """Return the setting that makes uv look at the folder of wheels first, as at an index of its own."""
    given = os.environ.get(WHEELS)
    if not given:
        return {}
    index = folder / "index"
    for wheel in sorted(Path(given).glob("*.whl")):
        page = index / wheel.name.split("-", 1)[0].lower().replace("_", "-") / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        with page.open("a") as links:
            links.write(f'<a href="{wheel.absolute().as_uri()}">{wheel.name}</a>\n')
    return {"UV_INDEX": index.as_uri()}


def versions(lock: Lock, names: Sequence[str]) -> str:
    found = {package.name: package.version for package in lock.python.packages}
    return ", ".join(f"{name} {found[name]}" for name in names if name in found)
