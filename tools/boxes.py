"""Prove shipped boxes and note it; make the table of their sizes and times in docs/boxes.md.

    .venv/bin/python tools/boxes.py run [BOX ...]      build, boot and verify; without names, every box
    .venv/bin/python tools/boxes.py verify [BOX ...]   the same with the images of your own home, which may be built
    .venv/bin/python tools/boxes.py table              write the table anew

`run` has a home of its own, so that everything is built; only the downloads are those of your own home, where they are
fetched beforehand if they are missing. `verify` notes no time of building. Either way the image must have the digests
that the lock records, and what was seen goes to `last-run.json` beside the lock. A box of several gigabytes takes
minutes, many when machines are emulated.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for the clone's own `benchmarks`

from benchmarks import host  # noqa: E402
from benchmarks.first_cell import first_cell  # noqa: E402
from mlvm.download import fetch  # noqa: E402
from mlvm.events import SILENT  # noqa: E402
from mlvm.files import write_whole  # noqa: E402
from mlvm.image.build import recorded_digests  # noqa: E402
from mlvm.image.document import BUILDER, LAYERS, Image  # noqa: E402
from mlvm.image.last_run import LastRun, load, save  # noqa: E402
from mlvm.image.store import Store  # noqa: E402
from mlvm.kernel import kernelspec  # noqa: E402
from mlvm.lock.document import Lock  # noqa: E402
from mlvm.lock.mirrors import wanted_debs, wanted_wheels  # noqa: E402
from mlvm.lock.text import load as load_lock  # noqa: E402
from mlvm.machine.qemu import run_record  # noqa: E402
from mlvm.machine.table import provider_for  # noqa: E402
from mlvm.paths import LOCK_NAME, Home  # noqa: E402
from mlvm.project import Project, shipped_boxes  # noqa: E402
from mlvm.terminal import size  # noqa: E402

PAGE = ROOT / "docs" / "boxes.md"
BEGIN = "<!-- made by tools/boxes.py: begin -->\n"
END = "<!-- made by tools/boxes.py: end -->"
MACHINE = "box"
KERNEL = "mlvm-box"
CELL_TIMEOUT = 3600
NOTHING = "-"


def main(words: list[str]) -> None:
    """Do what is asked."""
    match words:
        case ["run", *names]:
            for name in names or shipped_boxes():
                run_box(name)
            write_table()
        case ["verify", *names]:
            for name in names or shipped_boxes():
                verify_box(name)
            write_table()
        case ["table"]:
            write_table()
        case _:
            raise SystemExit(__doc__)


def run_box(name: str) -> None:
    """Build, boot and verify one box in a home of its own, and note what was seen."""
    kept = Home.find()
    lock = Project.find(name, Path.cwd(), home=kept).fresh_lock(frozen=True)
    downloads = fetch_all(lock, Store(kept))
    with apart(kept) as folder:
        os.environ["MLVM_HOME"] = str(folder)
        project = Project.find(name, Path.cwd(), home=own_home(kept))
        began = time.monotonic()
        image = project.build(frozen=True)
        built = {"build": round(time.monotonic() - began, 1)}
        note(name, prove(project, image, downloads, built))


def verify_box(name: str) -> None:
    """Boot and verify one box with the image of the user's own home, and note what was seen."""
    kept = Home.find()
    project = Project.find(name, Path.cwd(), home=kept)
    downloads = fetch_all(project.fresh_lock(frozen=True), Store(kept))
    with apart(kept):
        note(name, prove(project, project.build(frozen=True), downloads, {}))


def note(name: str, found: LastRun) -> None:
    """Write what was seen beside the lock, and say it."""
    save(found, ROOT / "boxes" / name)
    print(f"{name}: {dict(found.seconds)}, {size(found.size)}", flush=True)


@contextmanager
def apart(kept: Home) -> Iterator[Path]:
    """Give a folder where kernelspecs go meanwhile; nothing is made in the background; then all is as before."""
    before = dict(os.environ)
    kept.store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="box-", dir=kept.cache) as folder:
        os.environ.update(MLVM_WARM="off", JUPYTER_DATA_DIR=f"{folder}/jupyter")
        try:
            yield Path(folder)
        finally:
            os.environ.clear()
            os.environ.update(before)


def own_home(kept: Home) -> Home:
    """Return the home that the environment names now, with the downloads of another."""
    home = Home.find()
    home.store.mkdir(parents=True)
    (home.store / "blobs").symlink_to(Store(kept).blobs.folder.resolve())
    return home


def fetch_all(lock: Lock, store: Store) -> int:
    """Fetch what is missing of a lock's files; return the bytes of all of them."""
    wanted = [*wanted_debs(lock, lock.debs()), *wanted_wheels(lock)]
    fetch(wanted, store.blobs, observer=SILENT)
    return sum(store.blobs.path(one.sha256).stat().st_size for one in wanted)


def prove(project: Project, image: Image, downloads: int, seconds: Mapping[str, float]) -> LastRun:
    """Boot the image cold, ask a kernel for its first cell, run the notebook; time both."""
    before = host.describe()
    kernelspec.install(project.spec(), project.folder, name=KERNEL, machine=MACHINE)
    began = time.monotonic()
    record, _ = project.start(MACHINE, frozen=True, warm=False)
    try:
        answer_first_cell()
        booted = time.monotonic()
        run_notebook(project.folder / "verify.ipynb")
        done = time.monotonic()
        run = run_record.load(record)
    finally:
        provider_for(record).destroy(record, observer=SILENT)
    return LastRun(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        builder=BUILDER,
        digests=recorded_digests(image),
        sizes=sizes_of(image),
        downloads=downloads,
        seconds={**seconds, "boot": round(booted - began, 1), "verify": round(done - booted, 1)},
        host={key: before[key] for key in ("cpu", "cores", "qemu", "load")}
        | {"accelerator": run.accelerator if run else NOTHING},
    )


def answer_first_cell() -> None:
    """Start a kernel, wait until it has answered its first cell, and end it."""
    manager = KernelManager(kernel_name=KERNEL)
    manager.start_kernel()
    try:
        first_cell(manager.client(), lambda: None if manager.is_alive() else 1)
    finally:
        manager.shutdown_kernel(now=True)


def run_notebook(path: Path) -> None:
    """Run a notebook in the machine; its assertions raise."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, kernel_name=KERNEL, timeout=CELL_TIMEOUT, startup_timeout=300).execute()


def sizes_of(image: Image) -> dict[str, int]:
    """Return the bytes of each part."""
    return {part.name: part.size for part in (*image.layers, image.vmlinuz, image.initramfs)}


def write_table() -> None:
    """Put the table into its page."""
    page = PAGE.read_text()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} has lost the lines that say where its table goes")
    write_whole(PAGE, f"{before}{BEGIN}\n{tables(recorded(ROOT / 'boxes'))}\n{END}{after}")


def recorded(boxes: Path) -> dict[str, tuple[LastRun, bool]]:
    """Return the runs that are recorded and whether each was of the lock of now, by the name of the box."""
    found = {}
    for folder in sorted(path.parent for path in boxes.glob(f"*/{LOCK_NAME}")):
        if run := load(folder):
            found[folder.name] = run, run.speaks_of(load_lock(folder / LOCK_NAME))
    return found


def tables(found: Mapping[str, tuple[LastRun, bool]]) -> str:
    """Return the page's tables: sizes and times, what they were measured on, digests."""
    runs = {name: run for name, (run, _) in found.items()}
    layers = [name for name in LAYERS if any(name in run.sizes for run in runs.values())]
    sizes = [
        [
            f"`{name}`",
            size(run.downloads),
            size(run.size),
            *(size(run.sizes[layer]) if layer in run.sizes else NOTHING for layer in layers),
        ]
        for name, run in runs.items()
    ]
    times = [
        [
            f"`{name}`",
            *(
                f"{run.seconds[what]:.0f}" if what in run.seconds else NOTHING
                for what in ("build", "boot", "verify")
            ),
            run.date if found[name][1] else f"{run.date}, of another lock",
            f"{run.host['accelerator']}, {run.host['cores']} cores, load {run.host['load'][0]:.1f}",
        ]
        for name, run in runs.items()
    ]
    parts = [
        name for name in (*LAYERS, "vmlinuz", "initramfs") if any(name in r.digests for r in runs.values())
    ]
    digests = [
        [f"`{name}`", *(run.digests[part][:12] if part in run.digests else NOTHING for part in parts)]
        for name, run in runs.items()
    ]
    return "\n".join(
        (
            *("### Sizes", "", markdown(["box", "downloads", "image", *layers], sizes), ""),
            *(
                "### Times",
                "",
                markdown(["box", "build, s", "boot, s", "verify, s", "date", "on"], times),
                "",
            ),
            *("### Digests", "", markdown(["box", *parts], digests), ""),
        )
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
