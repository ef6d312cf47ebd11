"""A kernel is called after what is in its lock."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_launch import lock_with

from mlvm.kernel import kernelspec
from mlvm.kernel.title import title
from mlvm.lock.text import load
from mlvm.paths import shipped
from mlvm.spec.document import Spec


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ((("torch", "2.1.2+cu121"), ("numpy", "1.26.4")), "torch 2.1 · CUDA 12.1 · mlvm"),
        ((("torch", "2.1.2"), ("nvidia-cuda-runtime-cu12", "12.1.105")), "torch 2.1 · CUDA 12.1 · mlvm"),
        ((("torch", "2.13.0"), ("nvidia-cuda-runtime", "13.0.96")), "torch 2.13 · CUDA 13.0 · mlvm"),
        ((("torch", "2.13.0+cpu"),), "torch 2.13 · mlvm"),
        ((("jax", "0.4.30"), ("scikit-learn", "1.5.0")), "jax 0.4 · mlvm"),
        ((("scikit-learn", "1.5.0"), ("numpy", "2.0.0")), "scikit-learn 1.5 · mlvm"),
        ((("rich", "13.0"),), "Python · mlvm"),
    ],
)
def test_titles(packages: tuple[tuple[str, str], ...], expected: str) -> None:
    assert title(lock_with(*packages)) == expected


def test_a_plain_python_is_called_after_its_version() -> None:
    assert title(load(shipped("boxes") / "python-3.11" / "mlvm.lock")) == "Python 3.11 · mlvm"


def test_two_kernels_are_told_apart(jupyter: Path, tmp_path: Path) -> None:
    lock = lock_with(("torch", "2.1.2"))
    first = kernelspec.install(Spec(name="one"), tmp_path / "one", lock=lock)
    second = kernelspec.install(Spec(name="two"), tmp_path / "two", lock=lock)
    again = kernelspec.install(Spec(name="one"), tmp_path / "one", lock=lock)

    assert first.display_name == again.display_name == "torch 2.1 · mlvm"
    assert second.display_name == "torch 2.1 · mlvm · two"


def test_the_logo_is_there_in_every_form_that_frontends_know(jupyter: Path, tmp_path: Path) -> None:
    folder = kernelspec.install(Spec(name="one"), tmp_path).folder

    assert (folder / "logo-svg.svg").read_bytes().startswith(b"<svg")
    for size in (32, 64):
        png = (folder / f"logo-{size}x{size}.png").read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(png[16:20], "big") == int.from_bytes(png[20:24], "big") == size
