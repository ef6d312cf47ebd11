"""What is checked before a kernel starts, and how its end is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import loopback_record
from packaging.pylock import Pylock

from mlvm.errors import KernelError, MlvmError
from mlvm.kernel import launch
from mlvm.lock.document import Lock
from mlvm.lock.text import dumps, load
from mlvm.paths import Home, shipped


def lock_with(*packages: tuple[str, str]) -> Lock:
    """A lock whose Python part has just these packages."""
    wheels = [
        {
            "name": name,
            "version": version,
            "wheels": [
                {
                    "name": f"{name.replace('-', '_')}-{version}-py3-none-any.whl",
                    "url": "https://x/x.whl",
                    "hashes": {"sha256": "0" * 64},
                }
            ],
        }
        for name, version in packages
    ]
    python = Pylock.from_dict({"lock-version": "1.0", "created-by": "test", "packages": wheels})
    return Lock(
        name="box",
        inputs={},
        architecture="amd64",
        guest_kernel="linux-image",
        archives=(),
        system=(),
        boot=(),
        tools=(),
        python=python,
    )


def test_an_ipykernel_that_encrypts_is_accepted() -> None:
    launch.check_encryption(lock_with(("comm", "0.2"), ("ipykernel", "7.3.0")))


def test_an_older_ipykernel_is_refused() -> None:
    with pytest.raises(
        KernelError, match=r"^ipykernel 7\.2\.0 of `box` cannot encrypt its connections$"
    ) as refused:
        launch.check_encryption(lock_with(("ipykernel", "7.2.0")))

    assert refused.value.hint == "add `ipykernel>=7.3.0` to `packages` in mlvm.yaml, then `mlvm lock`"


def test_the_last_one_for_python_39_is_accepted() -> None:
    lock = lock_with(("ipykernel", "6.31.0"))

    launch.check_encryption(replace(lock, inputs={"python": "3.9"}))
    with pytest.raises(KernelError, match=r"^ipykernel 6\.31\.0 of `box` cannot encrypt its connections$"):
        launch.check_encryption(replace(lock, inputs={"python": "3.11"}))


def test_no_ipykernel_at_all() -> None:
    with pytest.raises(KernelError, match=r"^there is no ipykernel in the lock of `box`$"):
        launch.check_encryption(lock_with(("comm", "0.2")))


def test_a_project_that_is_gone(home: Home, tmp_path: Path) -> None:
    place = launch.Place(project=tmp_path / "gone", machine="box", home=home)

    with pytest.raises(KernelError) as refused:
        launch.fresh_lock(place)

    assert refused.value.message == f"there is no mlvm.yaml in `{tmp_path / 'gone'}` any more"


def test_a_project_without_a_lock(home: Home, tmp_path: Path) -> None:
    (tmp_path / "mlvm.yaml").write_text("name: box\n")
    place = launch.Place(project=tmp_path, machine="box", home=home)

    with pytest.raises(KernelError) as refused:
        launch.fresh_lock(place)

    assert refused.value.message == f"`{tmp_path}` is not locked yet"
    assert refused.value.hint == f"mlvm up {tmp_path} --name box"


def test_a_lock_that_does_not_fit_any_more(home: Home, tmp_path: Path) -> None:
    (tmp_path / "mlvm.yaml").write_text("name: box\npackages: [numpy]\n")
    of_a_box = load(shipped("boxes") / "python-3.11" / "mlvm.lock")
    (tmp_path / "mlvm.lock").write_text(dumps(replace(of_a_box, name="box")))
    place = launch.Place(project=tmp_path, machine="box", home=home)

    with pytest.raises(KernelError) as refused:
        launch.fresh_lock(place)

    assert refused.value.message == f"mlvm.lock in `{tmp_path}` does not fit its spec any more"
    assert refused.value.details == "packages: `numpy` was added"
    assert refused.value.hint == f"mlvm up {tmp_path} --name box"


def test_an_image_that_was_not_built_here(home: Home) -> None:
    """A shipped box has its lock, and a new home has no image of it."""
    place = launch.Place(project=shipped("boxes") / "sklearn", machine="box", home=home)

    with pytest.raises(KernelError) as refused:
        launch.built_image(place)

    assert refused.value.message == "the image of `sklearn` is not built here yet"
    assert refused.value.hint == "mlvm up sklearn --name box"


def test_the_command_names_a_shipped_box(home: Home) -> None:
    place = launch.Place(project=shipped("boxes") / "sklearn", machine="mine", home=home)

    assert place.up_command == "mlvm up sklearn --name mine"


def test_the_command_quotes_a_folder(home: Home) -> None:
    place = launch.Place(project=Path("/home/a b"), machine="mine", home=home)

    assert place.up_command == "mlvm up '/home/a b' --name mine"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (3, "the kernel in machine `box` ended with code 3\nlast words"),
        (-11, "the kernel in machine `box` was killed by signal 11\nlast words"),
        (
            -9,
            (
                "the kernel in machine `box` was killed by signal 9, perhaps for want of memory: "
                "the machine has 2048 MiB\nlast words"
            ),
        ),
    ],
)
def test_an_end_is_told(home: Home, code: int, told: str) -> None:
    assert launch.describe_end(code, loopback_record(home, "box"), "last words\n") == told


def test_only_the_last_words_are_told(home: Home) -> None:
    told = launch.describe_end(1, loopback_record(home, "box"), "\n".join(str(n) for n in range(100)))

    assert told.splitlines()[1:] == [str(n) for n in range(88, 100)]


def test_an_error_in_full() -> None:
    assert launch.in_full(MlvmError("a", details="b\nc", hint="d")) == "a\nb\nc\nhint: d"
    assert launch.in_full(MlvmError("a")) == "a"
