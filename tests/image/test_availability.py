"""What is here of a lock, from nothing to a warm state."""

from __future__ import annotations

import json

import pytest

from mlvm.image.availability import Status, look
from mlvm.image.plan import plan
from mlvm.image.store import ImageEntry, Store
from mlvm.lock.document import Lock
from mlvm.lock.mirrors import wanted_debs, wanted_wheels
from mlvm.lock.text import load
from mlvm.paths import Home, shipped


@pytest.fixture(scope="module")
def lock() -> Lock:
    return load(shipped("boxes") / "python-3.11" / "mlvm.lock")


def download(lock: Lock, home: Home, *, leave: int = 0) -> None:
    blobs = Store(home).blobs
    digests = sorted({one.sha256 for one in (*wanted_debs(lock, lock.debs()), *wanted_wheels(lock))})
    for sha256 in digests[leave:]:
        blobs.path(sha256).parent.mkdir(parents=True, exist_ok=True)
        blobs.path(sha256).write_bytes(b"")


def build(lock: Lock, home: Home) -> str:
    """Leave what a build leaves, in small: parts of eight bytes."""
    store, found = Store(home), plan(lock)
    ids = {step.name: step.id for step in found.steps}
    parts = {name: ids[name] for name in ("system", "modules", "python", "agent", "vmlinuz", "initramfs")}
    for name, step_id in parts.items():
        with store.new_artifact(step_id, name) as path:
            path.write_bytes(b"8 bytes.")
    store.tools_folder(ids["tools"]).mkdir(parents=True)
    texts = {"name": lock.name, "python": "3.11", "debian": "bookworm", "kernel_release": "6"}
    entry = ImageEntry(
        id=found.image_id,
        **texts,
        parts=parts,
        tools=ids["tools"],
        interpreter=ids["interpreter"],
        bytecode=(),
        blobs=(),
    )
    store.add_image(entry)
    return found.image_id


def test_nothing_yet(lock: Lock, home: Home) -> None:
    found = look(lock, home=home)

    assert (found.status, found.image, found.here) == (Status.NOT_YET, None, 0)
    assert found.downloads > 50_000_000


def test_one_file_is_missing(lock: Lock, home: Home) -> None:
    download(lock, home, leave=1)

    found = look(lock, home=home)
    assert found.status is Status.NOT_YET
    assert 0 < found.here < found.downloads


def test_downloads_only(lock: Lock, home: Home) -> None:
    download(lock, home)

    found = look(lock, home=home)
    assert (found.status, found.here) == (Status.DOWNLOADS_ONLY, found.downloads)


def test_built(lock: Lock, home: Home) -> None:
    build(lock, home)

    assert look(lock, home=home).status is Status.BUILT
    assert look(lock, home=home).image == 6 * 8


def test_warm(lock: Lock, home: Home) -> None:
    image_id = build(lock, home)
    state = Store(home).warm / "key"
    state.mkdir(parents=True)
    (state / "warm.json").write_text(json.dumps({"image_id": image_id}))

    assert look(lock, home=home).status is Status.WARM


def test_a_warm_state_of_another_image_or_of_none(lock: Lock, home: Home) -> None:
    build(lock, home)
    for name, content in (("a", '{"image_id": "x"}'), ("b", "{"), ("c", "[]")):
        (Store(home).warm / name).mkdir(parents=True)
        (Store(home).warm / name / "warm.json").write_text(content)

    assert look(lock, home=home).status is Status.BUILT
