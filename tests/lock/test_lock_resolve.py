"""From a spec to a lock: what is kept, what moves; and real locks of small specs."""

from __future__ import annotations

from dataclasses import replace

import lock_sample as sample
import pytest
from packaging.pylock import Pylock

from mlvm.download import Blobs
from mlvm.errors import ResolveError
from mlvm.lock import resolve as module
from mlvm.lock.diff import describe
from mlvm.lock.document import BoxPin, ImageRecord, Lock
from mlvm.lock.fresh import stale_reasons
from mlvm.lock.mirrors import archives, nearest, wanted_debs, wanted_wheels
from mlvm.lock.python import PYTHON_FULL
from mlvm.lock.resolve import resolve
from mlvm.lock.text import dumps, loads
from mlvm.paths import Home
from mlvm.spec.document import DEBIAN_PYTHON, Spec

LATER = "20270101T000000Z"


def later(**changes: object) -> Lock:
    """The sample as a new resolution would give it: another moment, no image record."""
    return sample.lock(
        archives=(*archives("bookworm", LATER), *archives("trixie", LATER)), image=None, **changes
    )


def timestamps(lock: Lock) -> dict[str, str]:
    return {archive.name: archive.timestamp for archive in lock.archives}


def test_a_resolution_that_moves_nothing_gives_the_same_lock() -> None:
    assert module._keep_what_did_not_move(later(), sample.lock()) == sample.lock()


def test_a_moved_wheel_drops_the_image_record_but_no_timestamp() -> None:
    new = later(python=sample.pylock({"ipykernel": "7.1.0", "numpy": "2.4.7"}))

    kept = module._keep_what_did_not_move(new, sample.lock())

    assert kept.image is None
    assert kept.archives == sample.lock().archives


def test_a_moved_deb_moves_the_timestamp_of_its_archive_only() -> None:
    new = later(system=(sample.deb("apt", "2.6.2"), sample.lock().system[1]))

    kept = module._keep_what_did_not_move(new, sample.lock())

    assert kept.image is None
    assert timestamps(kept) == {
        "bookworm": LATER,
        "bookworm-security": sample.STAMP,
        "trixie": sample.STAMP,
        "trixie-security": sample.STAMP,
    }


def test_other_requirements_with_the_same_result_keep_the_image_record() -> None:
    new = later(inputs={"debian": "bookworm", "python": "3.11", "packages": ["numpy"]})

    assert module._keep_what_did_not_move(new, sample.lock()).image == sample.lock().image


def test_a_name_that_nothing_has_is_a_slip() -> None:
    with pytest.raises(ResolveError) as error:
        module._check_known({"nunpy", "numpy"}, sample.lock())

    assert error.value.message == "nothing called `nunpy` is in the lock"


PIN = BoxPin(name="team/x", version="1.0.0", provider="libvirt", architecture="amd64", sha256="a" * 64)


def test_a_published_box_stays_pinned_while_it_is_what_the_lock_gives() -> None:
    new = later(inputs={"debian": "bookworm", "python": "3.11", "packages": ["numpy>=2.1"]})

    kept = module._keep_what_did_not_move(new, sample.lock(published=(PIN,)))
    assert kept.published == (PIN,)


@pytest.mark.parametrize(
    "change",
    [{"python": sample.pylock({"numpy": "2.5.0"})}, {"box": (sample.deb("zlib1g", archive="trixie"),)}],
)
def test_a_published_box_is_not_pinned_by_a_lock_that_gives_another(change: dict[str, object]) -> None:
    kept = module._keep_what_did_not_move(later(**change), sample.lock(published=(PIN,)))
    assert kept.published == ()


@pytest.mark.parametrize("name", ["NumPy", "libc6", "e2fsprogs", "linux-image-6.1.0-56-cloud-amd64"])
def test_names_of_both_worlds_are_known(name: str) -> None:
    module._check_known({name}, sample.lock())


def test_packages_of_another_release_do_not_stay() -> None:
    packages = [
        sample.deb("a"),
        sample.deb("b", archive="trixie"),
        sample.deb("c", archive="bookworm-security"),
    ]

    staying = module._staying(packages, "bookworm", {"c"})

    assert [package.name for package in staying] == ["a"]


def test_a_deb_is_fetched_from_the_near_mirror_then_the_archive_then_its_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLVM_DEBIAN_MIRROR", "http://mirror.example/")
    lock = sample.lock()

    wanted = wanted_debs(lock, lock.system)[1]

    pool = "pool/updates/main/l/libc6/libc6_2.36-9_amd64.deb"
    assert wanted.urls == (
        f"http://mirror.example/debian-security/{pool}",
        f"http://deb.debian.org/debian-security/{pool}",
        f"https://snapshot.debian.org/archive/debian-security/{sample.STAMP}/{pool}",
    )
    assert (wanted.name, wanted.size) == ("libc6 2.36-9", 1000)


def test_without_a_near_mirror_no_place_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLVM_DEBIAN_MIRROR", raising=False)
    lock = sample.lock()

    assert len(wanted_debs(lock, lock.system)[0].urls) == 2


def test_the_near_mirror_is_not_for_other_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLVM_DEBIAN_MIRROR", "http://mirror.example")

    assert nearest("http://elsewhere.example/debian") == "http://elsewhere.example/debian"


def test_wheels_are_fetched_by_their_digests() -> None:
    wanted = wanted_wheels(sample.lock())[1]

    assert wanted.name == "numpy 2.4.6"
    assert wanted.sha256 == sample.digest("numpy 2.4.6")


def versions(pylock: Pylock) -> dict[str, str]:
    return {str(package.name): str(package.version) for package in pylock.packages}


def tiny(release: str, *packages: str) -> Spec:
    return Spec(name="tiny", debian=release, python=DEBIAN_PYTHON[release], packages=packages)


@pytest.mark.network
@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_a_real_lock(release: str, home: Home) -> None:
    spec = tiny(release)

    lock = resolve(spec, home=home)

    blobs = Blobs(home.store / "blobs")
    interpreter = next(p for p in lock.system if p.name == f"python{spec.python}")
    assert loads(dumps(lock)) == lock
    assert stale_reasons(spec, lock) == []
    assert all(blobs.has(package.sha256) for package in lock.system)
    assert interpreter.version.startswith(PYTHON_FULL[release] + "-")
    assert {"libc6", "mawk", "openssh-server", "udev"} <= {package.name for package in lock.system}
    assert not {"perl", "usrmerge", "initramfs-tools"} & {package.name for package in lock.system}
    assert {package.archive for package in lock.tools} <= {"trixie", "trixie-security"}
    assert {"libc6", "e2fsprogs", "erofs-utils", "kmod"} <= {package.name for package in lock.tools}


@pytest.mark.network
def test_a_real_lock_stays_and_moves_as_asked(home: Home) -> None:
    spec = tiny("bookworm", "traitlets<5.14", "decorator<5.2")
    old = resolve(spec, home=home)
    old = replace(old, image=ImageRecord(builder=1, digests={"system": "0" * 64}))
    wider = replace(spec, packages=("traitlets", "decorator"))

    same = resolve(spec, home=home, previous=loads(dumps(old)))
    kept = resolve(wider, home=home, previous=old)
    moved = resolve(wider, home=home, previous=old, upgrade={"Decorator"})
    every = resolve(spec, home=home, previous=old, upgrade=())

    assert same == old
    assert every == old
    assert kept.python == old.python
    assert kept.image == old.image
    assert [line.split()[1] for line in describe(kept, moved)] == ["decorator"]
    assert moved.image is None
