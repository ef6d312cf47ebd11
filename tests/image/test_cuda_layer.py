"""CUDA in a layer of its own: a moved framework does not ship it again, and images without it stay as they were."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import lock_sample as sample
import pytest
import wheel_sample
from packaging.pylock import Pylock

from mlvm.download import Blobs
from mlvm.files import sha256_of
from mlvm.image.plan import plan
from mlvm.image.python_layer import VENV, make_cuda, make_python
from mlvm.image.tree import Tree
from mlvm.lock.document import Lock
from mlvm.paths import Home, shipped
from mlvm.project import Project

NVIDIA = {"cuda-toolkit": "12.1.1", "nvidia-cublas-cu12": "12.1.3.1", "nvidia-cuda-runtime-cu12": "12.1.105"}


def lock(**versions: str) -> Lock:
    return sample.lock(python=sample.pylock({"ipykernel": "7.1.0", **NVIDIA, **versions}))


def ids(of: Lock) -> dict[str, str]:
    return {step.name: step.id for step in plan(of).steps}


def test_a_moved_framework_leaves_the_cuda_layer() -> None:
    before, after = ids(lock(torch="2.1.1")), ids(lock(torch="2.1.2"))

    assert {name for name in before if before[name] != after[name]} == {"python"}


def test_a_moved_cuda_leaves_the_python_layer() -> None:
    before, after = ids(lock()), ids(lock(**{"nvidia-cublas-cu12": "12.4.5.8"}))

    assert {name for name in before if before[name] != after[name]} == {"cuda"}


def test_a_lock_without_cuda_has_no_such_layer() -> None:
    assert "cuda" not in ids(sample.lock())


@pytest.mark.parametrize("box", ["python-3.11", "sklearn"])
def test_boxes_without_cuda_are_made_of_the_steps_they_were_made_of(box: str, home: Home) -> None:
    committed = Project(folder=shipped("boxes") / box, home=home).lock()
    assert committed is not None

    assert set(ids(committed)) == {
        "tools", "interpreter", "system", "modules", "python", "agent", "vmlinuz", "initramfs"
    }  # fmt: skip
    wheels = plan(committed).step("python").inputs["wheels"]
    assert isinstance(wheels, list)
    assert len(wheels) == len(committed.python.packages)


class NoCompiler:
    """Compiles nothing."""

    def add_wheels(self, tree: Tree, wheels: object) -> None:
        """Leave the tree as it is."""


def test_both_layers_make_one_environment(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    packages = []
    for name, member in (("nvidia-cublas", "nvidia/cublas/lib/libcublas.so"), ("torch", "torch/__init__.py")):
        (tmp_path / name).mkdir()
        wheel = wheel_sample.written(tmp_path / name, {member: b"x"})
        digest = sha256_of(wheel)
        blobs.path(digest).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, blobs.path(digest))
        url = f"https://files.example/{name.replace('-', '_')}-1.0-py3-none-any.whl"
        packages.append(
            {"name": name, "version": "1.0", "wheels": [{"url": url, "hashes": {"sha256": digest}}]}
        )
    both = sample.lock(
        python=Pylock.from_dict({"lock-version": "1.0", "created-by": "mlvm", "packages": packages})
    )
    site = f"{VENV}/lib/python3.11/site-packages"

    with ExitStack() as open_wheels:
        cuda = make_cuda(both, blobs, open_wheels, compiler=NoCompiler())  # type: ignore[arg-type]
        python = make_python(both, blobs, open_wheels, compiler=NoCompiler())  # type: ignore[arg-type]

    assert f"{site}/nvidia/cublas/lib/libcublas.so" in cuda
    assert f"{site}/torch/__init__.py" not in cuda
    assert f"{site}/nvidia" not in python
    assert f"{VENV}/pyvenv.cfg" in python
    assert f"{VENV}/pyvenv.cfg" not in cuda
    assert (cuda["opt"].uid, cuda[VENV].uid) == (python["opt"].uid, python[VENV].uid)
