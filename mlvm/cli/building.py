"""`mlvm build`, `verify`, `store`, `prune`: images and where they are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mlvm.cli.parser import Arguments
from mlvm.cli.shared import observing, project_at
from mlvm.errors import BuildError, MachineError
from mlvm.files import write_whole
from mlvm.image.document import BUILDER
from mlvm.image.store import Store
from mlvm.image.usage import Item
from mlvm.machine.qemu import forks
from mlvm.paths import Home
from mlvm.terminal import size, table


def build(arguments: Arguments) -> int:
    """Build the image and print its parts' digests."""
    project = project_at(arguments.box)
    with observing(arguments.progress) as observer:
        image = project.build(frozen=arguments.frozen, observer=observer)
        if arguments.warm:
            project.make_warm(frozen=True, observer=observer)
    parts = (*image.layers, image.vmlinuz, image.initramfs)
    print(f"image {image.id}")
    print(
        table(
            [(part.name, size(part.size), f"sha256:{part.sha256}") for part in parts],
            header=("part", "size", "digest"),
        )
    )
    return 0


def standby(arguments: Arguments) -> int:
    """Have a machine of a box on standby, or end those that are."""
    if arguments.end:
        from mlvm.machine.qemu.standby import end

        count = end(Home.find(), minutes=arguments.older_than)
        print(f"ended: {count} machine{'s' * (count != 1)} on standby")
        return 0
    project = project_at(arguments.box)
    with observing(arguments.progress) as observer:
        there = project.make_standby(observer=observer)
    if not there:
        raise MachineError("somebody else makes a machine of this box ready just now", hint="wait for it")
    print(f"a machine of `{project.folder.name}` is on standby: the next fresh one of that box is that one")
    return 0


def verify(arguments: Arguments) -> int:
    """Rebuild and compare; with `--record`, write the digests into the lock."""
    from mlvm.image.build import build as build_image
    from mlvm.image.build import recorded_digests
    from mlvm.image.verify import verify as verify_image
    from mlvm.lock.document import ImageRecord
    from mlvm.lock.text import dumps

    project = project_at(arguments.box)
    lock = project.fresh_lock(frozen=True)
    if arguments.record:
        lock = replace(lock, image=None)  # the old digests are about to be replaced, not believed
    with observing(arguments.progress) as observer:
        project.provide_wheels(lock, observer=observer)
        image = build_image(lock, home=project.home, observer=observer)
        differences = verify_image(lock, home=project.home, observer=observer)
    if differences:
        raise BuildError(
            "the rebuilt image differs",
            details="\n".join(differences),
            hint="mlvm store, and keep both for a report",
        )
    for name, digest in image.digests().items():
        print(f"{name:<10} sha256:{digest}")
    print(f"image {image.id}: rebuilt, the same bits")
    if arguments.record:
        record = ImageRecord(builder=BUILDER, digests=recorded_digests(image))
        write_whole(project.lock_path, dumps(replace(lock, image=record)))
        print(f"recorded in {project.lock_path}")
    return 0


def store(arguments: Arguments) -> int:
    """List what is kept."""
    home = Home.find()
    kept, forked = Store(home).usage(), forks.items(home)
    usage = [*kept, *forked]
    if arguments.json:
        print(
            json.dumps(
                [
                    {
                        "kind": item.kind,
                        "name": item.name,
                        "id": item.id,
                        "bytes": item.size,
                        "used_by": item.used_by,
                    }
                    for item in usage
                ],
                indent=1,
            )
        )
        return 0
    rows = [
        (item.kind, item.name, item.id[:12], size(item.size), ", ".join(item.used_by) or "-")
        for item in _summed(usage)
    ]
    print(table(rows, header=("kind", "name", "id", "size", "used by")))
    print(f"{size(sum(item.size for item in kept))} in {home.store}")
    if forked:
        print(f"{size(sum(item.size for item in forked))} in {home.forks}")
    return 0


def _summed(items: Iterable[Item]) -> Iterator[Item]:
    """Make one line of the bytecode files that the same users use; there is one a wheel."""
    files: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        if item.kind == "bytecode":
            files.setdefault(item.used_by, []).append(item)
        else:
            yield item
    for users, found in files.items():
        total = sum(item.size for item in found)
        yield Item(kind="bytecode", name=f"{len(found)} wheels", id="", size=total, used_by=users)


def prune(arguments: Arguments) -> int:
    """Remove what nothing uses; what is on standby takes memory, and can be made again as well."""
    from mlvm.machine.qemu import standby as waiting

    home = Home.find()
    if not arguments.dry_run and (count := waiting.end(home)):
        print(f"ended: {count} machine{'s' * (count != 1)} on standby")
    gone = [*forks.tidy(home, dry_run=arguments.dry_run), *Store(home).prune(dry_run=arguments.dry_run)]
    for item in _summed(gone):
        print(f"{item.kind:<9} {item.name}  {item.id[:12]}  {size(item.size)}")
    verb = "would free" if arguments.dry_run else "freed"
    print(f"{verb} {size(sum(item.size for item in gone))}")
    return 0
