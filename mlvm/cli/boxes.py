"""`mlvm box`, `mlvm vagrant`: the boxes that there are, and images for people who have Vagrant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import observing, project_at
from mlvm.errors import MlvmError
from mlvm.paths import Home
from mlvm.project import Project, shipped_boxes
from mlvm.terminal import size, table

NOTHING = "-"


def show(arguments: Arguments) -> int:
    """List the boxes that come with mlvm; one that cannot be read is shown with the reason."""
    home = Home.find()
    rows = [_row(name, home) for name in shipped_boxes()]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    header = ("name", "python", "CUDA", "packages", "downloads", "image", "status", "verified")
    print(table([_line(row) for row in rows if "error" not in row], header=header))
    for row in rows:
        if "error" in row:
            print(f"{row['name']}: {row['error']}")
    print("next: mlvm up NAME")
    return 0


def _row(name: str, home: Home) -> dict[str, Any]:
    """Return what `--json` says of a box."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    from mlvm.image.availability import look
    from mlvm.image.document import BUILDER
    from mlvm.image.last_run import load as load_run

    try:
        project = Project.find(name, Path.cwd(), home=home)
        spec, lock = project.spec(), project.lock()
        found = look(lock, home=home) if lock else None
        run = load_run(project.folder)
    except MlvmError as broken:
        return {"name": name, "error": broken.message}
    locked = {str(one.name): str(one.version) for one in lock.python.packages} if lock else {}
    wanted = [canonicalize_name(Requirement(text).name) for text in spec.packages]
    record = lock.image if lock else None
    return {
        "name": name,
        "python": spec.python,
        "debian": spec.debian,
        "cuda": lock.cuda.version if lock and lock.cuda else None,
        "packages": {one: locked.get(one) for one in wanted},
        "wheels": len(locked),
        "status": str(found.status) if found else "no lock",
        "image_bytes": found.image if found else None,
        "download_bytes": found.downloads if found else None,
        "downloaded_bytes": found.here if found else None,
        "verified": {"builder": record.builder, "now": BUILDER, "digests": dict(record.digests)}
        if record
        else None,
        "last_run": {
            "date": run.date,
            "of_this_lock": lock is not None and run.speaks_of(lock),
            "image_bytes": run.size,
            "seconds": dict(run.seconds),
        }
        if run
        else None,
        "folder": str(project.folder),
    }


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    packages = ", ".join(f"{name} {version or ''}".strip() for name, version in row["packages"].items())
    run = row["last_run"]
    image = row["image_bytes"] or (run["image_bytes"] if run and run["of_this_lock"] else None)
    return (
        row["name"],
        row["python"],
        row["cuda"] or NOTHING,
        packages or NOTHING,
        NOTHING if row["download_bytes"] is None else size(row["download_bytes"]),
        NOTHING if image is None else size(image),
        row["status"],
        _verified(row),
    )


def _verified(row: dict[str, Any]) -> str:
    """Say when the box was last proved; without a run of this lock, whether digests are recorded."""
    record, run = row["verified"], row["last_run"]
    if record and record["builder"] != record["now"]:
        return f"by builder {record['builder']}, now {record['now']}"
    if run:
        return str(run["date"]) if run["of_this_lock"] else f"{run['date']}, of another lock"
    return "recorded" if record else NOTHING


def export(arguments: Arguments) -> int:
    """Write the box of a project, and print its digest."""
    project = project_at(arguments.box)
    output = Path(arguments.output).absolute() if arguments.output else None
    with observing(arguments.progress) as observer:
        found = project.export_box(
            arguments.provider, output=output, frozen=arguments.frozen, observer=observer
        )
    if arguments.json:
        document = {
            "path": str(found.path),
            "provider": found.provider,
            "sha256": found.sha256,
            "size": found.size,
        }
        print(json.dumps(document))
    else:
        print(f"{found.path}: {found.size / 1e6:.1f} MB for {found.provider}\nsha256:{found.sha256}")
    return 0


def vagrant_init(arguments: Arguments) -> int:
    """Write a project's Vagrantfile."""
    from mlvm.box.vagrantfile import MARK, Catalog, box_name

    project = project_at(arguments.box)
    catalog = None
    if arguments.catalog:
        lock = project.fresh_lock(frozen=True)
        name = arguments.box_name or box_name(lock).rpartition("-")[0]
        version = arguments.box_version or next(
            (pin.version for pin in lock.published if pin.name == name), None
        )
        if not version:
            raise MlvmError("a catalog offers many versions: which one?", hint="add `--box-version VERSION`")
        catalog = Catalog(url=arguments.catalog, name=name, version=version)
    boxes = Path(arguments.boxes).absolute() if arguments.boxes else None
    path, providers = project.write_vagrantfile(boxes=boxes, url=arguments.url, catalog=catalog)
    print(f"wrote {path}; what stands below `{MARK[:14]} ...` is yours")
    print(f"pinned: {', '.join(providers)}" if providers else f"pinned: {catalog}")
    print("next: vagrant up")
    return 0


def take(arguments: Arguments) -> int:
    """Check and unpack a stranger's box."""
    from mlvm.box.foreign import take as take_box
    from mlvm.box.unpack import GIB, Limits

    box = Path(arguments.file).absolute()
    target = Path(arguments.output or box.stem).absolute()
    limits = Limits(size=arguments.max_size * GIB) if arguments.max_size else None
    found = take_box(box, target, limits=limits)
    print(f"{found.folder}: a box for {found.provider}, checked: one disk, whole in one file")
    print(f"{found.disk}: {found.facts.format}, a disk of {found.facts.size / 1e9:.1f} GB")
    return 0
