"""The store's promises: whole or absent, garbage is absent, what is used stays, one makes and the others wait."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mlvm
from mlvm.errors import StoreError
from mlvm.files import is_temporary
from mlvm.image.document import LAYERS, OPTIONAL_LAYERS
from mlvm.image.plan import PARTS
from mlvm.image.store import ImageEntry, Store
from mlvm.image.usage import GRACE
from mlvm.paths import LOCK_NAME, Home

ID = "1" * 64


@pytest.fixture
def store(home: Home) -> Store:
    return Store(home)


@pytest.fixture
def children() -> Iterator[ExitStack]:
    """Programs entered here are killed and waited for at the end of the test."""
    with ExitStack() as stack:
        yield stack


def start(children: ExitStack, store: Store, code: str) -> subprocess.Popen[str]:
    """Start a Python that runs `code` with `store`; return when it has said a line."""
    beginning = (
        "import sys, time\nfrom mlvm.paths import Home\nfrom mlvm.image.store import Store\n"
        "store = Store(Home.find())\n"
        "def say(text):\n    print(text, flush=True)\n"
    )
    root = str(Path(mlvm.__file__).parent.parent)
    child = children.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", beginning + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root, "MLVM_HOME": str(store.home.data.parent)},
        )
    )
    children.callback(child.kill)
    return child


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def make(store: Store, step_id: str, name: str, content: bytes = b"content") -> None:
    with store.new_artifact(step_id, name) as path:
        path.write_bytes(content)


def make_image(store: Store, image_id: str = ID, *, prefix: str = "part") -> ImageEntry:
    """Put an image with all its parts into the store."""
    entry = ImageEntry(
        id=image_id,
        name="sample",
        python="3.11",
        debian="bookworm",
        kernel_release="6.1",
        parts={name: f"{prefix}-{name}" for name in PARTS},
        tools=f"{prefix}-tools",
        interpreter=f"{prefix}-interpreter",
        bytecode=(f"{prefix}-bytecode",),
        blobs=("ab" * 32,),
    )
    for name, step_id in entry.parts.items():
        make(store, step_id, name)
    for folder in (entry.tools, entry.interpreter):
        store.tools_folder(folder).mkdir(parents=True)
    store.bytecode.mkdir(parents=True, exist_ok=True)
    (store.bytecode / entry.bytecode[0]).write_bytes(b"code")
    store.add_image(entry)
    return entry


def everything(store: Store) -> set[str]:
    """Return what is in the store, but for holds."""
    return {
        str(path.relative_to(store.folder))
        for path in store.folder.rglob("*")
        if path.is_file() and "holds" not in path.parts
    }


def test_an_artifact_is_found_as_it_was_made(store: Store) -> None:
    make(store, "id", "system", b"12345")

    found = store.find_artifact("id")

    assert found is not None
    assert (found.name, found.id, found.size, found.path.read_bytes()) == ("system", "id", 5, b"12345")
    assert found.sha256 == "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5"
    assert found.path.stat().st_mode & 0o777 == 0o444


def test_an_artifact_appears_at_the_end_only(store: Store) -> None:
    with store.new_artifact("id", "system") as path:
        path.write_bytes(b"half")

        assert store.find_artifact("id") is None
    assert store.find_artifact("id") is not None


def test_a_failed_step_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.new_artifact("id", "system") as path:
            path.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.find_artifact("id") is None
    assert everything(store) == set()


def test_a_killed_step_leaves_nothing_that_is_taken_for_whole(store: Store, children: ExitStack) -> None:
    child = start(
        children, store,
        "with store.new_artifact('id', 'system') as path:\n"
        "    path.write_bytes(b'half')\n    say('half'); time.sleep(60)",
    )  # fmt: skip
    assert said(child) == "half"
    child.kill()
    child.wait()

    assert store.find_artifact("id") is None
    (left,) = (store.folder / "artifacts").iterdir()
    assert is_temporary(left)
    store.prune()
    assert everything(store) == set()


def test_a_new_artifact_replaces_a_damaged_one(store: Store) -> None:
    make(store, "id", "system", b"first")
    content = store.artifact_folder("id") / "content"
    content.chmod(0o644)
    content.write_bytes(b"cut")
    make(store, "id", "system", b"second")

    found = store.find_artifact("id")

    assert found is not None
    assert found.path.read_bytes() == b"second"


@pytest.mark.parametrize("content", [b"", b"conten", b"content and more"])
def test_content_of_another_length_is_absent(store: Store, content: bytes) -> None:
    make_image(store)
    path = store.artifact_folder("part-python") / "content"
    path.chmod(0o644)
    path.write_bytes(content)

    assert store.find_artifact("part-python") is None
    assert store.find_image(ID) is None


@pytest.mark.parametrize("lost", [f"part-{name}" for name in PARTS])
def test_an_image_without_one_of_its_parts_is_absent(store: Store, lost: str) -> None:
    make_image(store)
    (store.artifact_folder(lost) / "content").unlink()

    assert store.find_image(ID) is None


def test_an_image_without_its_tools_is_absent(store: Store) -> None:
    entry = make_image(store)
    store.tools_folder(entry.tools).rmdir()

    assert store.find_image(ID) is None


def test_an_image_is_found_as_it_was_recorded(store: Store) -> None:
    entry = make_image(store)

    image = store.find_image(ID)

    assert store.entry(ID) == entry
    assert image is not None
    assert [layer.name for layer in image.layers] == list(LAYERS)
    assert (image.vmlinuz.name, image.initramfs.name) == ("vmlinuz", "initramfs")


def test_a_record_under_another_images_name_is_foreign(store: Store) -> None:
    make_image(store)
    other = "2" * 64
    (store.images / f"{other}.json").write_bytes((store.images / f"{ID}.json").read_bytes())

    assert store.find_image(other) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
MANY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@MANY
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_record_of_an_artifact_is_absent_or_right(store: Store, content: bytes) -> None:
    make(store, "id", "system")
    (store.artifact_folder("id") / "artifact.json").write_bytes(content)

    assert store.find_artifact("id") is None


@MANY
@given(field=st.sampled_from(["name", "sha256", "size"]), value=JSON)
def test_a_record_of_an_artifact_with_one_field_changed(store: Store, field: str, value: object) -> None:
    make(store, "id", "system")
    path = store.artifact_folder("id") / "artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))

    found = store.find_artifact("id")

    assert found is None or (isinstance(found.name, str) and isinstance(found.sha256, str))


@MANY
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_record_of_an_image_is_absent(store: Store, content: bytes) -> None:
    store.images.mkdir(parents=True, exist_ok=True)
    (store.images / f"{ID}.json").write_bytes(content)

    assert store.find_image(ID) is None
    assert [item for item in store.usage() if item.kind == "image"] == []


@MANY
@given(field=st.sampled_from(["version", "id", *ImageEntry.__slots__]), value=JSON, cut=st.booleans())
def test_a_record_of_an_image_with_one_field_changed(
    store: Store, field: str, value: object, cut: bool
) -> None:
    """Whatever stands there: looking, counting and pruning do not stumble over it."""
    if store.entry(ID) is None:
        store.prune()
        make_image(store)
    path = store.images / f"{ID}.json"
    whole = json.loads(path.read_text())
    if cut:
        whole.pop(field, None)
    else:
        whole[field] = value
    path.write_text(json.dumps(whole))

    image = store.find_image(ID)

    assert image is None or not cut or field == "own_interpreter"  # records from before it may lack that
    store.usage()
    store.prune(dry_run=True)
    path.unlink()


def test_what_a_project_uses_stays(store: Store, tmp_path: Path) -> None:
    make_image(store)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / LOCK_NAME).write_text("")
    store.register_project("sample", folder, ID)

    assert {item.used_by for item in store.usage()} == {(f"project {folder}",)}
    assert store.project_called("sample") == folder
    assert store.prune() == []
    assert store.find_image(ID) is not None


def test_a_project_without_its_lock_uses_nothing(store: Store, tmp_path: Path) -> None:
    make_image(store)
    store.register_project("sample", tmp_path, ID)

    removed = store.prune()

    assert store.project_called("sample") is None
    assert {item.kind for item in removed} == {"image", "part", "tools", "bytecode"}
    assert everything(store) == set()


def machine(store: Store, content: str) -> None:
    folder = store.home.machine("sample")
    folder.mkdir(parents=True)
    (folder / "machine.json").write_text(content)


def test_what_a_machine_uses_stays(store: Store) -> None:
    make_image(store)
    machine(store, json.dumps({"image_id": ID}))

    assert {item.used_by for item in store.usage()} == {("machine sample",)}
    assert store.prune() == []
    assert store.find_image(ID) is not None


def test_a_machine_that_cannot_be_read_keeps_prune_from_guessing(store: Store) -> None:
    make_image(store)
    machine(store, "{")

    with pytest.raises(StoreError) as caught:
        store.prune()

    assert caught.value.message == (
        "the record of machine `sample` cannot be read, so its image is not known"
    )
    assert caught.value.hint == "mlvm destroy sample"
    assert store.find_image(ID) is not None


@pytest.mark.parametrize("content", ["", "[]", "5", '{"image_id": []}', '{"image_id": null}'])
def test_prune_does_not_take_a_broken_machine_for_none(store: Store, content: str) -> None:
    machine(store, content)
    make_image(store)

    with pytest.raises(StoreError):
        store.prune()


@pytest.mark.parametrize("content", ["", "[]", "5", '{"image_id": []}', '{"image_id": null}'])
def test_usage_is_shown_beside_a_machine_that_cannot_be_read(store: Store, content: str) -> None:
    make_image(store)
    machine(store, content)

    assert {item.used_by for item in store.usage()} == {()}


@pytest.mark.parametrize("content", ["", "[]", "5", '{"folder": 5}', "[5"])
def test_a_project_that_cannot_be_read_uses_nothing(store: Store, content: str) -> None:
    make_image(store)
    roots = store.home.data / "roots"
    roots.mkdir(parents=True)
    (roots / "x.json").write_text(content)

    assert {item.used_by for item in store.usage()} == {()}


def test_a_registered_image_that_is_no_text(store: Store, tmp_path: Path) -> None:
    make_image(store)
    (tmp_path / LOCK_NAME).write_text("")
    roots = store.home.data / "roots"
    roots.mkdir(parents=True)
    (roots / "x.json").write_text(json.dumps({"name": "x", "folder": str(tmp_path), "image_id": [ID]}))

    assert {item.used_by for item in store.usage()} == {()}


def make_warm(store: Store, key: str, described: str) -> Path:
    folder = store.warm / key
    folder.mkdir(parents=True)
    (folder / "ram.img").write_bytes(b"RAM")
    (folder / "warm.json").write_text(described)
    return folder


def test_a_warm_state_is_shown_and_goes_with_its_image(store: Store) -> None:
    make_image(store)
    machine(store, json.dumps({"image_id": ID}))
    folder = make_warm(store, "key", json.dumps({"name": "sample", "image_id": ID}))

    (shown,) = [item for item in store.usage() if item.kind == "warm"]
    assert (shown.name, shown.id, shown.used_by) == ("sample", "key", ("machine sample",))
    assert store.prune() == []

    shutil.rmtree(store.home.machines)
    assert "warm" in [item.kind for item in store.prune()]
    assert not folder.exists()


@pytest.mark.parametrize("described", ["", "[]", "{}", '{"name": "sample"}', '{"name": "x", "image_id": 7}'])
def test_a_warm_state_that_cannot_be_read_is_nobodys(store: Store, described: str) -> None:
    make_image(store)
    machine(store, json.dumps({"image_id": ID}))
    folder = make_warm(store, "key", described)

    assert [item.kind for item in store.prune()] == ["warm"]
    assert not folder.exists()


def test_what_a_living_process_uses_stays_until_it_ends(store: Store, children: ExitStack) -> None:
    make_image(store)
    child = start(children, store, f"store.keep('{ID}'); say('kept'); time.sleep(60)")
    assert said(child) == "kept"

    assert store.prune() == []
    child.kill()
    child.wait()

    assert len(store.prune()) > 0
    assert store.find_image(ID) is None


def test_a_part_that_two_images_share_goes_with_the_last(store: Store, tmp_path: Path) -> None:
    make_image(store)
    shared = store.entry(ID)
    assert shared is not None
    other = "2" * 64
    make_image(store, other, prefix="other")
    entry = store.entry(other)
    assert entry is not None
    store.add_image(
        ImageEntry(**{name: getattr(entry, name) for name in entry.__slots__} | {"parts": shared.parts})
    )
    machine(store, json.dumps({"image_id": other}))

    store.prune()

    assert store.entry(ID) is None
    assert store.find_image(other) is not None
    assert store.find_artifact("other-system") is None


def test_downloads_that_nothing_names_stay_an_hour(store: Store) -> None:
    make_image(store)
    machine(store, json.dumps({"image_id": ID}))
    named, old, fresh = ("ab" * 32, "cd" * 32, "ef" * 32)
    for blob in (named, old, fresh):
        path = store.blobs.path(blob)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        age = time.time() - (0 if blob == fresh else GRACE + 60)
        os.utime(path, (age, age))

    (removed,) = store.prune()

    assert (removed.kind, removed.name) == ("downloads", "1 packages")
    assert [store.blobs.has(blob) for blob in (named, old, fresh)] == [True, False, True]


def test_a_dry_run_removes_nothing(store: Store) -> None:
    make_image(store)
    before = everything(store)

    assert len(store.prune(dry_run=True)) > 0
    assert everything(store) == before


def test_pruning_nothing_makes_nothing(store: Store) -> None:
    assert store.prune() == []
    assert not store.folder.exists()


def test_prune_waits_for_a_build(store: Store, children: ExitStack) -> None:
    make_image(store)
    builder = start(
        children, store, "with store.building():\n    say('building'); sys.stdin.readline()\nsay('built')"
    )
    assert said(builder) == "building"
    pruner = start(children, store, "say('pruning'); store.prune(); say('pruned')")
    assert said(pruner) == "pruning"
    time.sleep(0.5)

    assert store.find_image(ID) is not None
    assert builder.stdin is not None
    builder.stdin.write("\n")
    builder.stdin.flush()
    assert said(pruner) == "pruned"
    assert store.find_image(ID) is None


def test_a_build_waits_for_prune_and_says_so(store: Store, children: ExitStack) -> None:
    holder = start(
        children, store,
        "from mlvm.files import hold\n"
        "with hold(store.folder / 'holds' / 'store'):\n    say('pruning'); sys.stdin.readline()",
    )  # fmt: skip
    assert said(holder) == "pruning"
    notes: list[str] = []

    def waiting() -> None:
        notes.append("waiting")
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()

    with store.building(waiting=waiting):
        assert notes == ["waiting"]


def test_builds_do_not_wait_for_each_other(store: Store, children: ExitStack) -> None:
    other = start(children, store, "with store.building():\n    say('building'); time.sleep(60)")
    assert said(other) == "building"

    with store.building(waiting=lambda: pytest.fail("one build waits for another")):
        pass


MAKER = """\
waits = []
with store.making('id', waiting=lambda: (waits.append(1), say('waits'))):
    if store.find_artifact('id') is None:
        with store.new_artifact('id', 'system') as path:
            say('makes'); sys.stdin.readline()
            path.write_bytes(b'content')
    else:
        say('finds')
"""


def test_of_two_processes_one_makes_and_the_other_waits_and_says_so(
    store: Store, children: ExitStack
) -> None:
    first = start(children, store, MAKER)
    assert said(first) == "makes"
    second = start(children, store, MAKER)
    assert said(second) == "waits"

    assert first.stdin is not None
    first.stdin.write("\n")
    first.stdin.flush()

    assert said(second) == "finds"
    assert store.find_artifact("id") is not None


def test_whoever_waits_makes_it_when_the_maker_is_killed(store: Store, children: ExitStack) -> None:
    first = start(children, store, MAKER)
    assert said(first) == "makes"
    second = start(children, store, MAKER)
    assert said(second) == "waits"

    first.kill()

    assert said(second) == "makes"


def test_an_image_without_optional_layers_is_found(store: Store) -> None:
    entry = make_image(store)
    kept = {name: part for name, part in entry.parts.items() if name not in OPTIONAL_LAYERS}
    store.add_image(replace(entry, parts=kept))

    image = store.find_image(ID)

    assert image is not None
    assert [layer.name for layer in image.layers] == ["system", "modules", "python", "agent"]
