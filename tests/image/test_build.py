"""Real builds of a real lock: the same bits whoever builds them where, and a store that survives anything.

Every build runs in a process of its own, so that it can be another user's, have no network, or be killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import mlvm
from mlvm.files import is_temporary, sha256_of
from mlvm.image.build import build
from mlvm.image.document import LAYERS, OPTIONAL_LAYERS, Image
from mlvm.image.erofs_reader import ErofsReader, Found
from mlvm.image.merged import merged_path
from mlvm.image.sources import read_deb
from mlvm.image.store import Store
from mlvm.image.tools import Tools
from mlvm.image.tree import SOURCE_DATE
from mlvm.image.verify import verify
from mlvm.lock.deb import Kind
from mlvm.lock.document import Lock
from mlvm.paths import Home, shipped
from mlvm.project import Project

pytestmark = pytest.mark.network  # downloads what no run before has brought

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others, and mount")

NOBODY = 65534
ROUNDS, KILLS = 3, 5
#: What a child runs: build the shipped box, say what was noted and what came of it as JSON lines.
CHILD = """\
import json, sys
from mlvm.errors import MlvmError
from mlvm.events import Observer
from mlvm.image.build import build
from mlvm.paths import Home, shipped
from mlvm.project import Project
def say(**what):
    print(json.dumps(what), flush=True)
class Notes(Observer):
    def note(self, text):
        say(note=text)
home = Home.find()
lock = Project(folder=shipped("boxes") / "python-3.11", home=home).lock()
workers = int(sys.argv[1]) or None
try:
    say(digests=build(lock, home=home, observer=Notes(), workers=workers).digests())
except MlvmError as error:
    say(error=type(error).__name__, message=error.message, details=error.details, hint=error.hint)
"""


@dataclass(frozen=True)
class Built:
    """What a child said."""

    lines: list[dict[str, object]]

    @property
    def notes(self) -> list[object]:
        return [line["note"] for line in self.lines if "note" in line]

    @property
    def outcome(self) -> dict[str, object]:
        return self.lines[-1]

    @property
    def digests(self) -> object:
        assert "digests" in self.outcome, self.outcome
        return self.outcome["digests"]


@pytest.fixture(scope="module")
def lock(chain_home: Home) -> Lock:
    found = Project(folder=shipped("boxes") / "python-3.11", home=chain_home).lock()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def image(lock: Lock, chain_home: Home) -> Image:
    """The image as this process builds it; what all others are compared with."""
    return build(lock, home=chain_home)


@pytest.fixture
def other(tmp_path: Path, image: Image, chain_home: Home) -> Home:
    """An empty home that shares nothing but the downloads."""
    return empty(tmp_path / "home", chain_home)


def empty(root: Path, chain_home: Home) -> Home:
    home = Home(data=root / "data", cache=root / "cache", runtime=root / "runtime")
    home.store.mkdir(parents=True)
    (home.store / "blobs").symlink_to((chain_home.store / "blobs").resolve())
    return home


def start(
    home: Home, *before: str, workers: int = 0, env: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a build in `home`; `before` is a command that starts it otherwise."""
    return subprocess.Popen(
        [*before, sys.executable, "-c", CHILD, str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(mlvm.__file__).parent.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MLVM_HOME": str(home.data.parent),
            **(env or {}),
        },
    )


def finished(child: subprocess.Popen[str]) -> Built:
    output, _ = child.communicate(timeout=300)
    assert child.returncode == 0
    return Built([json.loads(line) for line in output.splitlines()])


def entries(image: Image, layer: str) -> dict[str, Found]:
    reader = ErofsReader(next(one for one in image.layers if one.name == layer).path)
    try:
        return reader.entries()
    finally:
        reader.close()


@pytest.mark.parametrize("layer", [name for name in LAYERS if name not in OPTIONAL_LAYERS])
def test_the_root_of_every_layer_is_closed_to_writers(image: Image, layer: str) -> None:
    root = entries(image, layer)[""]

    assert (oct(root.mode), root.uid, root.gid, root.mtime) == ("0o40755", 0, 0, SOURCE_DATE)


def test_files_keep_the_times_of_their_packages_and_none_is_younger_than_the_source_date(
    lock: Lock, image: Image, chain_home: Home
) -> None:
    times = {path: found.mtime for path, found in entries(image, "system").items()}
    package = next(package for package in lock.system if package.name == "mawk")
    brought = {
        merged_path(entry.path): entry.mtime
        for entry in read_deb(package, Store(chain_home).blobs).entries
        if entry.kind is Kind.FILE and merged_path(entry.path) in times
    }

    assert brought["usr/bin/mawk"] < SOURCE_DATE
    assert {path: times[path] for path in brought} == brought
    assert max(times.values()) == SOURCE_DATE


@pytest.fixture(scope="module")
def unpacked(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The system layer, unpacked by the pinned fsck.erofs, which is not ours."""
    folder = tmp_path_factory.mktemp("unpacked")
    preserve = "--preserve" if os.geteuid() == 0 else "--no-preserve-owner"
    Tools(image.tools).run("fsck.erofs", [f"--extract={folder}/root", preserve, image.layers[0].path])
    return folder / "root"


def test_our_reader_sees_what_the_tools_see(image: Image, unpacked: Path) -> None:
    found = entries(image, "system")
    seen = {"": unpacked.stat()} | {
        str(path.relative_to(unpacked)): path.lstat() for path in unpacked.rglob("*")
    }

    assert found.keys() == seen.keys()
    for path, status in seen.items():
        assert (found[path].mode, found[path].mtime) == (status.st_mode, int(status.st_mtime)), path
        if os.geteuid() == 0:
            assert (found[path].uid, found[path].gid) == (status.st_uid, status.st_gid), path
        if found[path].mode & 0o170000 == 0o100000:
            assert found[path].digest == sha256_of(unpacked / path), path


def test_bytecode_fits_its_source(unpacked: Path) -> None:
    """Python compares time and size; where they differ, it compiles again at every start."""
    count = 0
    for path in unpacked.glob("usr/lib/python3*/**/*.pyc"):
        source = path.parent.parent / f"{path.name.split('.')[0]}.py"
        flags, mtime, size = struct.unpack_from("<III", path.read_bytes(), 4)
        count += 1

        assert (flags, mtime, size) == (0, int(source.stat().st_mtime), source.stat().st_size), path
    assert count > 500


@as_root
def test_another_user_without_network_elsewhere_in_the_world(image: Image, other: Home) -> None:
    """Somebody else's build: nothing of the host, its settings or its speed is in an image."""
    for path in (other.data.parent, other.cache, other.store):
        os.chown(path, NOBODY, NOBODY)
    built = finished(
        start(
            other,
            "unshare", "--net", "--uts", "sh", "-c", 'hostname elsewhere && umask 077 && exec "$@"', "sh",
            # Nobody may read root's Python and downloads, and that is all.
            "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
            "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
            "taskset", "--cpu-list", "0",
            workers=1,
            env={"TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8", "HOME": "/nonexistent", "SOURCE_DATE_EPOCH": "1"},
        )
    )  # fmt: skip

    assert built.digests == image.digests()
    assert {path.stat().st_uid for path in other.store.glob("artifacts/*/content")} == {NOBODY}


def test_two_builds_at_once_share_the_work(image: Image, other: Home) -> None:
    pair = [start(other, workers=3), start(other, workers=3)]
    first, second = (finished(child) for child in pair)

    assert first.digests == second.digests == image.digests()
    waited = [note for built in (first, second) for note in built.notes]
    assert waited
    assert all(str(note).startswith("waiting: another mlvm is building `") for note in waited)


def unsound(home: Home, image: Image) -> list[str]:
    """Return what a store takes for whole and is not as it must be."""
    store = Store(home)
    wrong = []
    right = image.digests()
    for folder in (home.store / "artifacts").glob("*"):
        found = None if is_temporary(folder) else store.find_artifact(folder.name)
        if found and not sha256_of(found.path) == found.sha256 == right[found.name]:
            wrong.append(found.name)
    wrong += [
        f"tools {folder.name}"
        for folder in (home.store / "tools").glob("*")
        if not is_temporary(folder) and contents(folder) != contents(image.tools.parent / folder.name)
    ]
    whole = store.find_image(image.id)
    return wrong if whole is None or whole.digests() == right else [*wrong, "image"]


def contents(folder: Path) -> dict[str, int]:
    """Path -> size of everything in a folder."""
    return {
        str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*") if not path.is_dir()
    }


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_a_build_may_be_killed_at_any_moment(image: Image, other: Home, seed: int) -> None:
    """Killed again and again, it leaves nothing half-made that is taken for whole, and ends as if nothing had been."""
    moments = random.Random(seed)
    for _ in range(KILLS):
        child = start(other)
        try:
            child.wait(moments.uniform(0.3, 5))
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
        child.wait()
        assert child.stdout is not None
        child.stdout.close()

        assert unsound(other, image) == []

    assert finished(start(other)).digests == image.digests()


def damaged(home: Home, sha256: str, content: bytes) -> None:
    """Give `home` a folder of downloads of its own, all links but one."""
    blobs = (home.store / "blobs").resolve()
    (home.store / "blobs").unlink()
    for blob in blobs.glob("??/*"):
        link = home.store / "blobs" / blob.parent.name / blob.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    path = Store(home).blobs.path(sha256)
    path.unlink()
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["package", "wheel"])
@pytest.mark.parametrize("cut", [True, False])
def test_a_damaged_download_is_found(lock: Lock, other: Home, kind: str, cut: bool) -> None:
    if kind == "package":
        name, digest = next((one.name, one.sha256) for one in lock.system if one.name == "bash")
    else:
        name, digest = next(
            (one.name, one.wheels[0].hashes["sha256"]) for one in lock.python.packages if one.wheels
        )
    content = Store(other).blobs.path(digest).read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + (b"" if cut else bytes([content[middle] ^ 1]) + content[middle + 1 :])
    damaged(other, digest, changed)

    outcome = finished(start(other)).outcome

    assert outcome["error"] == "DigestError"
    assert outcome["message"] == f"`{name}` in the store is not what was downloaded: its bytes have changed"
    assert outcome["hint"] == f"rm -f {outcome['details']} && mlvm build"


@pytest.fixture
def copied(image: Image, chain_home: Home, tmp_path: Path) -> Home:
    """A home with the image, which a test may damage."""
    home = empty(tmp_path / "copy", chain_home)
    for name in ("artifacts", "images", "bytecode", "tools"):
        shutil.copytree(chain_home.store / name, home.store / name, symlinks=True, copy_function=os.link)
    return home


def replaced(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_a_part_that_was_cut_is_built_again(image: Image, copied: Home) -> None:
    part = next(layer for layer in image.layers if layer.name == "agent")
    path = Store(copied).artifact_folder(part.id) / "content"
    replaced(path, path.read_bytes()[:-1])

    built = finished(start(copied))

    assert built.notes == ["`agent` in the store is damaged: building it again"]
    assert built.digests == image.digests()


def test_a_part_that_was_changed_is_named_by_verify(lock: Lock, image: Image, copied: Home) -> None:
    part = next(layer for layer in image.layers if layer.name == "agent")
    path = Store(copied).artifact_folder(part.id) / "content"
    content = path.read_bytes()
    changed = content.replace(b"def main(", b"def niam(", 1)
    assert changed != content
    replaced(path, changed)

    first, *rest = verify(lock, home=copied)

    assert first == f"agent: changed since it was built, {part.sha256} then, {sha256_of(path)} now"
    assert len(rest) == 1
    assert rest[0].startswith("agent: /usr/lib/mlvm/agent/")
    assert rest[0].endswith(": content")


def test_bytecode_that_was_changed_is_compiled_again(image: Image, copied: Home) -> None:
    for path in (copied.store / "bytecode").iterdir():
        replaced(path, path.read_bytes()[:-7] + b"garbage")
    part = next(layer for layer in image.layers if layer.name == "python")
    shutil.rmtree(Store(copied).artifact_folder(part.id))

    assert finished(start(copied)).digests == image.digests()


@pytest.fixture
def small_disk(tmp_path: Path, chain_home: Home, request: pytest.FixtureRequest) -> Iterator[Home]:
    """A home on a file system of its own, so many MiB large."""
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={request.param}M", "tmpfs", root], check=True)
    try:
        yield empty(root, chain_home)
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


@as_root
@pytest.mark.parametrize("small_disk", [4, 40, 200, 330], indirect=True)
def test_a_full_disk_is_an_error_that_says_so(image: Image, small_disk: Home) -> None:
    """Whoever comes to its end: we while unpacking, or writing a tar, or before mkfs.erofs, which would hang there."""
    outcome = finished(start(small_disk, workers=1)).outcome

    assert outcome["error"] == "StoreError"
    assert outcome["message"] == "the disk is full"
    assert outcome["hint"] == "`mlvm prune` removes what no project or machine uses"
    assert unsound(small_disk, image) == []
