"""`mlvm init`, `lock`, `diff`, `show`: from wishes to exact versions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import observing, project_at
from mlvm.errors import LockError, SpecError
from mlvm.files import write_whole
from mlvm.lock.diff import describe
from mlvm.lock.document import Lock
from mlvm.lock.text import load
from mlvm.paths import LOCK_NAME, SPEC_NAME, Home
from mlvm.project import Project
from mlvm.terminal import size


def init(arguments: Arguments) -> int:
    """Write a spec: from a template, the running Python, or what the folder has."""
    from mlvm.spec import draft

    folder = Path.cwd()
    if arguments.template == "list":
        for name, text in draft.list_templates():
            print(f"{name:<12}  {text}")
        return 0
    unpinned: Sequence[str] = ()
    if arguments.template:
        text = draft.draft_from_template(arguments.template, folder=folder)
    elif arguments.from_env:
        text, unpinned = draft.draft_from_interpreter(folder)
    else:
        text = draft.draft_from_folder(folder)
    if arguments.stdout:
        print(text, end="")
        return 0
    target = folder / SPEC_NAME
    if target.exists() and not arguments.force:
        raise SpecError(f"`{target}` is there already", hint="mlvm init --force, or edit it")
    write_whole(target, text)
    print(f"wrote {target}")
    for line in unpinned:
        print(f"not pinned: {line}")
    print("next: mlvm up")
    return 0


def lock(arguments: Arguments) -> int:
    """Resolve, or with `--check` only look."""
    project = project_at(arguments.box)
    if arguments.check:
        reasons = project.stale_reasons()
        print("\n".join(reasons) if reasons else f"fresh: {project.lock_path}")
        return 1 if reasons else 0
    if arguments.into:
        return _lock_into(project, arguments)
    upgrade = None if arguments.upgrade is None else set(arguments.upgrade)
    with observing(arguments.progress) as observer:
        old, new = project.relock(upgrade=upgrade, observer=observer)
    if old is None:
        wheels = len(new.python.packages)
        print(f"{project.lock_path}: {wheels} Python packages, {len(new.debs())} Debian packages")
    else:
        print("\n".join(describe(old, new)) or "nothing changed")
    return 0


def _lock_into(project: Project, arguments: Arguments) -> int:
    """Put a lock into a notebook; a fresh one is not resolved again unless something is to be upgraded."""
    from mlvm.lock import carried
    from mlvm.spec import ipynb

    notebook = ipynb.read(Path(arguments.into))
    with observing(arguments.progress) as observer:
        if arguments.upgrade is not None:
            project.relock(upgrade=set(arguments.upgrade), observer=observer)
        found = project.fresh_lock(observer=observer)
    packed = carried.pack(project.spec(), found)
    ipynb.save(ipynb.with_metadata(notebook, packed))
    print(f"{notebook.path}: the lock of `{found.name}` is in it, {size(len(packed['lock']))}")
    print(f"next: mlvm reproduce {notebook.path}, or mlvm up --from {notebook.path} wherever it is")
    return 0


def diff(arguments: Arguments) -> int:
    """Show what differs between two locks."""
    lines = describe(_lock_at(arguments.old), _lock_at(arguments.new))
    print("\n".join(lines) or "no difference")
    return 1 if lines else 0


def show(arguments: Arguments) -> int:
    """Print a document as JSON."""
    print(json.dumps(_document(arguments.what, arguments.box), indent=1, default=str))
    return 0


def _lock_at(place: str) -> Lock:
    path = Path(place)
    return load(path / LOCK_NAME if path.is_dir() else path)


def _document(what: str, box: str | None) -> object:
    if what == "machine":
        from mlvm.cli.shared import machine_called

        return asdict(machine_called(box))
    project = project_at(box)
    if what == "spec":
        spec = project.spec()
        return {
            name: dict(value)
            if name == "env"
            else asdict(value)
            if name in {"machine", "cuda"} and value
            else value
            for name in spec.__slots__
            for value in [getattr(spec, name)]
        }
    found = project.lock()
    if found is None:
        raise LockError(f"there is no `{project.lock_path}`", hint="mlvm lock")
    if what == "lock":
        return {**asdict(found), "python": found.python.to_dict()}
    from mlvm.image.plan import plan

    if what == "plan":
        return asdict(plan(found))
    from mlvm.image.store import Store

    image = Store(Home.find()).find_image(plan(found).image_id)
    if image is None:
        raise LockError("the image is not built", hint="mlvm build")
    return asdict(image)
