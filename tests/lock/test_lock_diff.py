"""The difference between two locks, line by line."""

from __future__ import annotations

from dataclasses import replace

import lock_sample as sample
import pytest

from mlvm.lock.diff import describe
from mlvm.lock.document import BoxPin, ImageRecord, Lock
from mlvm.lock.mirrors import archives

OLD = sample.lock()


def test_the_same_lock() -> None:
    assert describe(OLD, sample.lock()) == []


def test_python_packages() -> None:
    new = replace(OLD, python=sample.pylock({"ipykernel": "7.0.9", "scipy": "1.16.0"}))

    assert describe(OLD, new) == [
        "python:   ipykernel 7.1.0 -> 7.0.9 (downgrade)",
        "python: - numpy 2.4.6",
        "python: + scipy 1.16.0",
    ]


def test_versions_of_python_packages_are_compared_as_such() -> None:
    old, new = (replace(OLD, python=sample.pylock({"ipykernel": version})) for version in ("7.9.0", "7.10.0"))

    assert describe(old, new) == ["python:   ipykernel 7.9.0 -> 7.10.0"]


def test_debian_packages() -> None:
    new = replace(OLD, system=(sample.deb("apt", "2.6.2"), sample.deb("libc6", "2.36-9~deb12u1")))

    assert describe(OLD, new) == [
        "system:   apt 2.6.1 -> 2.6.2",
        "system:   libc6 2.36-9 -> 2.36-9~deb12u1 (downgrade)",
    ]


def test_another_guest_kernel_is_one_move() -> None:
    name = "linux-image-6.1.0-57-cloud-amd64"
    new = replace(OLD, guest_kernel=name, boot=(OLD.boot[0], sample.deb(name, "6.1.180-1")))

    assert describe(OLD, new) == [
        f"guest kernel:   {sample.KERNEL} 6.1.174-1 -> linux-image-6.1.0-57-cloud-amd64 6.1.180-1"
    ]


def test_the_same_guest_kernel_in_a_newer_version() -> None:
    new = replace(OLD, boot=(OLD.boot[0], sample.deb(sample.KERNEL, "6.1.174-2")))

    assert describe(OLD, new) == [f"guest kernel:   {sample.KERNEL} 6.1.174-1 -> 6.1.174-2"]


def test_the_order_is_what_people_look_for_first() -> None:
    new = replace(
        OLD,
        inputs={**OLD.inputs, "packages": ["numpy"]},
        python=sample.pylock({"ipykernel": "7.1.0", "numpy": "2.4.5"}),
        system=(sample.deb("apt", "2.6.2"), OLD.system[1]),
        tools=(sample.deb("e2fsprogs", "1.0-2", archive="trixie"), *OLD.tools[1:]),
        boot=(sample.deb("busybox-static", "1:1.36"), sample.deb(sample.KERNEL, "6.1.174-2")),
        archives=(*archives("bookworm", "20261201T000000Z"), *OLD.archives[2:]),
    )

    assert describe(OLD, new) == [
        "packages: `numpy>=2` is now `numpy`",
        "python:   numpy 2.4.6 -> 2.4.5 (downgrade)",
        "system:   apt 2.6.1 -> 2.6.2",
        "tools:   e2fsprogs 1.0-1 -> 1.0-2",
        f"guest kernel:   {sample.KERNEL} 6.1.174-1 -> 6.1.174-2",
        "boot:   busybox-static 1:1.35.0-4 -> 1:1.36",
        "archive bookworm: 20261123T160000Z -> 20261201T000000Z",
        "archive bookworm-security: 20261123T160000Z -> 20261201T000000Z",
    ]


def test_the_same_version_with_other_bytes_is_said_loudly() -> None:
    new = replace(OLD, system=(sample.deb("apt", "2.6.1", sha256="0" * 64), OLD.system[1]))

    assert describe(OLD, new) == [
        (
            "system: ! apt 2.6.1 has other bytes under the same name:"
            f" sha256 {OLD.system[0].sha256[:12]}... -> 000000000000..."
        )
    ]


def test_another_wheel_of_the_same_version_is_named() -> None:
    document = OLD.python.to_dict()
    wheel = document["packages"][1]["wheels"][0]
    wheel["url"] = "https://files.pythonhosted.org/p/numpy-2.4.6-1-py3-none-any.whl"
    wheel["hashes"] = {"sha256": "1" * 64}
    new = replace(OLD, python=type(OLD.python).from_dict(document))

    assert describe(OLD, new) == [
        (
            "python: ! numpy 2.4.6 has other bytes:"
            " numpy-2.4.6-py3-none-any.whl -> numpy-2.4.6-1-py3-none-any.whl"
        )
    ]


def with_image(digest: str, builder: int = 1) -> Lock:
    return replace(OLD, image=ImageRecord(builder=builder, digests={"system": digest * 64}))


def test_another_image_made_of_the_same_things_is_said_loudly() -> None:
    assert describe(with_image("1"), with_image("2")) == [
        "image: ! system has other bytes, made of the same packages: sha256 111111111111... -> 222222222222..."
    ]


def test_another_image_by_another_builder_is_normal() -> None:
    assert describe(with_image("1"), with_image("2", builder=2)) == []


def pinned(version: str, digest: str = "1") -> Lock:
    pin = BoxPin(name="team/x", version=version, provider="libvirt", architecture="amd64", sha256=digest * 64)
    return replace(OLD, published=(pin,))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (OLD, pinned("1.0.0"), ["published: team/x for libvirt: nothing -> 1.0.0"]),
        (pinned("1.0.0"), pinned("1.1.0"), ["published: team/x for libvirt: 1.0.0 -> 1.1.0"]),
        (pinned("1.0.0"), OLD, ["published: team/x for libvirt: 1.0.0 -> nothing"]),
        (
            pinned("1.0.0"),
            pinned("1.0.0", "2"),
            ["published: ! team/x for libvirt: 1.0.0 -> 1.0.0 by another digest"],
        ),
        (pinned("1.0.0"), pinned("1.0.0"), []),
    ],
)
def test_boxes_that_were_published(old: Lock, new: Lock, said: list[str]) -> None:
    assert describe(old, new) == said


def test_what_a_build_needs() -> None:
    old = sample.built()
    new = replace(old, builds=(replace(old.builds[0], requires=sample.pylock({"setuptools": "85.0.0"})),))

    assert describe(old, new) == ["build of docopt:   setuptools 84.2.1 -> 85.0.0"]
