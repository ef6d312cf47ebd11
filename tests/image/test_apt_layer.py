"""Debian packages that a spec asks for: set up by their own scripts, the same bits each time, there in the guest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import lock_sample as sample
import pytest

from mlvm.events import SILENT
from mlvm.image.apt_inside import changes
from mlvm.image.build import build
from mlvm.image.document import Image
from mlvm.image.erofs_reader import ErofsReader
from mlvm.image.plan import plan
from mlvm.lock.deb import Kind
from mlvm.lock.document import Lock
from mlvm.lock.resolve import resolve
from mlvm.machine import create
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.paths import Home
from mlvm.spec.document import GIB, MachineShape, Spec

as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make device nodes, and others here need uidmap"
)

#: One with users of its libraries and Perl, one that two packages offer an alternative for.
APT = ("git", "libopenblas0-pthread")
SPEC = Spec(name="with-apt", apt=APT, machine=MachineShape(memory=GIB))


def step_ids(lock: Lock) -> dict[str, str]:
    return {step.name: step.id for step in plan(lock).steps}


def test_packages_on_top_are_a_step_of_their_own() -> None:
    without, with_git = sample.lock(), sample.lock(apt=(sample.deb("git"),))

    assert "apt" not in step_ids(without)
    assert {name for name, id_ in step_ids(with_git).items() if step_ids(without).get(name) != id_} == {"apt"}


def test_a_moved_system_sets_them_up_again() -> None:
    before = sample.lock(apt=(sample.deb("git"),))
    after = replace(before, system=(sample.deb("apt", "2.6.2"), before.system[1]))

    assert step_ids(before)["apt"] != step_ids(after)["apt"]


def test_what_changed_is_the_layer_without_logs_and_leftovers(tmp_path: Path) -> None:
    for name in (
        "usr/bin/git", "var/log/dpkg.log", "var/lib/dpkg/status", "var/lib/dpkg/status-old", "tmp/x",
        "usr/sbin/policy-rc.d", "etc/passwd-", "var/cache/ldconfig/aux-cache",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "usr/bin/git").chmod(0o755)
    (tmp_path / "usr/bin/git-again").hardlink_to(tmp_path / "usr/bin/git")
    (tmp_path / "usr/bin/g").symlink_to("git")

    tree = changes(tmp_path)

    assert [path for path, node in tree.nodes.items() if node.kind is not Kind.FOLDER] == [
        "usr/bin/g", "usr/bin/git", "usr/bin/git-again", "var/lib/dpkg/status"
    ]  # fmt: skip
    assert tree["usr/bin/git"].mode == 0o755
    assert (tree["usr/bin/git-again"].kind, tree["usr/bin/git-again"].link) == (Kind.HARDLINK, "usr/bin/git")


@as_root
def test_what_was_removed_is_hidden(tmp_path: Path) -> None:
    os.mknod(tmp_path / "gone", 0o020000, os.makedev(0, 0))

    assert changes(tmp_path)["gone"].kind is Kind.WHITEOUT


@pytest.fixture(scope="module")
def lock(chain_home: Home) -> Lock:
    return resolve(SPEC, home=chain_home)


@pytest.fixture(scope="module")
def image(lock: Lock, chain_home: Home) -> Image:
    return build(lock, home=chain_home)


def layer(image: Image) -> Path:
    return next(part.path for part in image.layers if part.name == "apt")


@pytest.mark.network
@as_root
def test_the_same_packages_give_the_same_bits(
    image: Image, lock: Lock, chain_home: Home, tmp_path: Path
) -> None:
    other = Home(data=tmp_path / "data", cache=tmp_path / "cache", runtime=tmp_path / "run")
    other.store.mkdir(parents=True)
    (other.store / "blobs").symlink_to(chain_home.store / "blobs")

    assert build(lock, home=other).digests() == image.digests()


@pytest.mark.network
@as_root
def test_the_layer_holds_what_their_scripts_made(image: Image) -> None:
    found = set(ErofsReader(layer(image)).entries())

    assert {"usr/bin/git", "var/lib/dpkg/status", "etc/ld.so.cache"} <= found
    assert "etc/alternatives/libblas.so.3-x86_64-linux-gnu" in found
    assert not [path for path in found if path.startswith(("var/log/", "tmp/", "usr/sbin/policy-rc.d"))]


@pytest.mark.network
@pytest.mark.boot
@as_root
def test_the_packages_work_in_the_guest(image: Image, chain_home: Home) -> None:
    record = create.ensure(chain_home, "with-apt", image=image, spec=SPEC, project=chain_home.data)
    provider = QemuProvider(warm=False)
    guest = provider.start(record, image, observer=SILENT)
    try:
        version = guest.run(["git", "--version"])
        audit = guest.run(["dpkg", "--audit"], user="root")
        blas = guest.run(["readlink", "-f", "/usr/lib/x86_64-linux-gnu/libblas.so.3"])
    finally:
        provider.destroy(record, observer=SILENT)

    assert version.stdout.startswith(b"git version 2."), version.stderr
    assert (audit.code, audit.stdout) == (0, b"")
    assert b"openblas-pthread" in blas.stdout
