"""How long an image takes, beside the conventional way to make it (which starts again whatever has changed).

Four states of the store are told apart, because "warm" may mean each of them:

- *downloads only*: all packages are there, nothing has ever been built
- *built before*: and the tools and the wheels' bytecode are there, which builds of other locks have left; no layer
- *one package changed*: and the image of the same lock with another threadpoolctl, whose wheel is new
- *nothing changed*: the image is there; `mlvm build` only has to say so
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench, environment
from benchmarks.conventional import Conventional, prepare
from benchmarks.measures import Bar, Measure, Series
from mlvm import process
from mlvm.download import fetch
from mlvm.errors import LockError
from mlvm.image.store import Store
from mlvm.lock.mirrors import wanted_debs, wanted_wheels
from mlvm.lock.text import load
from mlvm.paths import LOCK_NAME, SPEC_NAME, shipped

BIN = Path(sys.executable).parent
#: The four packages that the bars were set for, and the shipped box with more of them.
FOUR = 'name: four\ndebian: bookworm\npython: "3.11"\npackages: [numpy, scipy, scikit-learn, ipykernel]\n'
ANOTHER = "threadpoolctl<3.6"
FULL, WARM, ONE, NOTHING = "downloads only", "built before", "one package changed", "nothing changed"
WHOLE, AUDIT = "conventional", "uv audit"
BARS = {
    FULL: Bar(of="ours", limit=12),
    WARM: Bar(of="ours", limit=12),
    ONE: Bar(of="ours", limit=4),
    NOTHING: Bar(of="ours", limit=0.3),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one build took, and its stages in order."""

    seconds: float
    stages: dict[str, float]


def measure_four(bench: Bench) -> Sequence[Measure]:
    """Measure the four packages, to which the bars apply."""
    return measure_one(bench, locked(bench.kept / "four", FOUR), bars=True)


def measure_sklearn(bench: Bench) -> Sequence[Measure]:
    """Measure the shipped box of that name, which has more packages."""
    box = shipped("boxes") / "sklearn"
    return measure_one(
        bench,
        locked(bench.kept / "sklearn", (box / SPEC_NAME).read_text(), lock=box / LOCK_NAME),
        bars=False,
    )


def measure_one(bench: Bench, project: Path, *, bars: bool) -> list[Measure]:
    """Measure one project in all states."""
    lock = load(project / LOCK_NAME)
    changed = with_another_package(project)
    blobs = Store(bench.home).blobs
    for one in (lock, load(changed / LOCK_NAME)):
        fetch([*wanted_debs(one, one.debs()), *wanted_wheels(one)], blobs)
    stores = prepared_stores(bench, project)
    conventional = prepare(lock, blobs, bench.folder / "baseline", uv=BIN / "uv")
    bench.notes.append(
        f"{len(lock.debs())} .debs, {len(lock.python.packages)} wheels of "
        f"{sum(item.size or 0 for item in wanted_wheels(lock)) / 1e6:.0f} MB"
    )
    turns = bench.rounds(
        {
            FULL: lambda: build_turn(bench, stores[FULL], project),
            WARM: lambda: build_turn(bench, stores[WARM], project),
            ONE: lambda: build_turn(bench, stores[NOTHING], changed),
            NOTHING: lambda: build_turn(bench, stores[NOTHING], project),
            WHOLE: lambda: conventional_turn(conventional),
            AUDIT: lambda: audit_turn(conventional),
        }
    )
    for folder in (conventional.folder, *stores.values()):
        shutil.rmtree(folder)
    return [
        Measure(
            name=key,
            unit="s",
            ours=_series("mlvm", turns[key]),
            baseline=_series(AUDIT, turns[AUDIT]) if key == NOTHING else _series(WHOLE, turns[WHOLE]),
            bar=bar if bars else None,
        )
        for key, bar in BARS.items()
    ]


def locked(folder: Path, spec: str, *, lock: Path | None = None) -> Path:
    """Return a project with a lock in `folder`: made once and kept, or a copy of one that there is."""
    if not (folder / SPEC_NAME).is_file() or (folder / SPEC_NAME).read_text() != spec:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK_NAME).unlink(missing_ok=True)
        (folder / SPEC_NAME).write_text(spec)
    if lock is not None:
        shutil.copyfile(lock, folder / LOCK_NAME)
    if not (folder / LOCK_NAME).is_file():
        process.run([BIN / "mlvm", "lock", f"{folder}/"])
    return folder


def with_another_package(project: Path) -> Path:
    """Return a project whose lock differs from that of `project` in one small wheel."""
    folder = project.with_name(f"{project.name}-changed")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(project, folder)
    spec = (project / SPEC_NAME).read_text().replace("packages: [", f'packages: ["{ANOTHER}", ')
    (folder / SPEC_NAME).write_text(spec)
    process.run([BIN / "mlvm", "lock", f"{folder}/"])
    before, after = (load(one / LOCK_NAME) for one in (project, folder))
    differ = {item.sha256 for item in wanted_wheels(before)} ^ {item.sha256 for item in wanted_wheels(after)}
    if len(differ) != 2 or before.debs() != after.debs():
        raise LockError(
            f"the lock with `{ANOTHER}` differs in more than one wheel", hint=f"rm -r {project.parent}"
        )
    return folder


def prepared_stores(bench: Bench, project: Path) -> dict[str, Path]:
    """Return a home for each state of the store; turns get copies of them (of links, which cost nothing)."""
    homes = {key: bench.folder / key.replace(" ", "-") for key in (FULL, WARM, NOTHING)}
    for home in homes.values():
        (home / "cache/store").mkdir(parents=True)
        (home / "cache/store/blobs").symlink_to(Store(bench.home).blobs.folder.resolve())
    run_build(homes[NOTHING], project)
    for name in ("tools", "bytecode"):
        copy_of_links(homes[NOTHING] / "cache/store" / name, homes[WARM] / "cache/store" / name)
    return homes


def copy_of_links(source: Path, target: Path) -> None:
    """Copy a tree without its bytes: what a store holds is never written to."""
    shutil.copytree(source, target, symlinks=True, copy_function=os.link)


def build_turn(bench: Bench, home: Path, project: Path) -> Turn:
    """Build in a copy of `home`, which is thrown away."""
    copy = bench.folder / "turn"
    copy_of_links(home, copy)
    try:
        return run_build(copy, project)
    finally:
        shutil.rmtree(copy)


def run_build(home: Path, project: Path) -> Turn:
    """Run `mlvm build` to its end; a stage ends when its part is whole."""
    began, wall = time.monotonic(), time.time()
    done = process.run(
        [BIN / "mlvm", "build", f"{project}/", "--frozen", "--progress", "json"],
        env=environment(MLVM_HOME=home),
        timeout=1800,
    )
    seconds = time.monotonic() - began
    moments = {"start": 0.0}
    for event in map(json.loads, done.stderr.splitlines()):
        if event["event"] == "started":
            moments["start"] = event["time"] - wall
        elif event["event"] == "progress" and event["stage"] == "build":
            moments[event["detail"]] = event["time"] - wall
    moments["end"] = seconds
    ends = list(moments.items())
    stages = {name: end - begin for (_, begin), (name, end) in zip([("", 0.0), *ends], ends, strict=False)}
    return Turn(seconds=seconds, stages=stages if len(stages) > 2 else {})


def conventional_turn(conventional: Conventional) -> Turn:
    """Make the image the conventional way."""
    stages = conventional.build()
    return Turn(seconds=sum(stages.values()), stages=stages)


def audit_turn(conventional: Conventional) -> Turn:
    """Ask uv for an environment that is there."""
    began = time.monotonic()
    conventional.install(conventional.installed)
    return Turn(seconds=time.monotonic() - began, stages={})


def _series(name: str, turns: Sequence[Turn]) -> Series:
    stages = {stage: tuple(turn.stages.get(stage, 0.0) for turn in turns) for stage in turns[0].stages}
    return Series(name=name, samples=tuple(turn.seconds for turn in turns), stages=stages)
