"""What does not go together is refused, and the nearest that works is named."""

from __future__ import annotations

from dataclasses import replace

import lock_sample as sample
import pytest

from mlvm.errors import ResolveError
from mlvm.lock import compatibility
from mlvm.lock import resolve as resolving
from mlvm.lock.fit import Fit, fit
from mlvm.paths import Home
from mlvm.spec.document import CudaWish, Spec

TABLE = compatibility.load(compatibility.SHIPPED)
DATED = f"(table of {TABLE.date})"


def fitted(*packages: str, python: str = "3.11", **cuda: object) -> Fit:
    wish = CudaWish(**cuda) if cuda else None  # type: ignore[arg-type]
    return fit(Spec(name="box", python=python, packages=packages, cuda=wish), TABLE)


def refused(*packages: str, python: str = "3.11", **cuda: object) -> tuple[str, str]:
    with pytest.raises(ResolveError) as error:
        fitted(*packages, python=python, **cuda).check()
    return error.value.message, error.value.hint


@pytest.mark.parametrize(
    ("package", "python", "what", "nearest"),
    [
        ("torch==2.1.*", "3.12", "torch 2.1 has no Python 3.12 build", "python 3.11, or torch >= 2.2"),
        ("torch==2.1.*", "3.13", "torch 2.1 has no Python 3.13 build", "python 3.11, or torch >= 2.5"),
        ("torch==2.1.2", "3.13", "torch 2.1.2 has no Python 3.13 build", "python 3.11, or torch >= 2.5"),
        ("torch<1.13", "3.11", "torch 1.8 to 1.12 has no Python 3.11 build", "python 3.10, or torch >= 1.13"),
        (
            "tensorflow==2.15.*",
            "3.13",
            "tensorflow 2.15 has no Python 3.13 build",
            "python 3.11, or tensorflow >= 2.20",
        ),
        ("jax>=0.11", "3.11", "jax 0.11 to 0.12 has no Python 3.11 build", "python 3.12, or jax <= 0.10.2"),
    ],
)
def test_a_python_that_a_framework_was_not_built_for(
    package: str, python: str, what: str, nearest: str
) -> None:
    assert refused(package, python=python) == (what, nearest)


@pytest.mark.parametrize(
    ("package", "cuda", "what", "nearest"),
    [
        ("torch==2.1.*", "12.4", "torch 2.1 does not work with CUDA 12.4", "cuda 12.1, or torch 2.5"),
        ("torch==2.0.*", "11.8", "torch 2.0 does not work with CUDA 11.8", "cuda 11.7"),
        ("jax[cuda12]", "13.0", "jax 0.4 to 0.10 does not work with CUDA 13.0", "cuda 12.9"),
        ("numpy", "12.7", f"no CUDA 12.7 is known in NVIDIA's wheels {DATED}", "cuda 12.8"),
    ],
)
def test_another_cuda(package: str, cuda: str, what: str, nearest: str) -> None:
    assert refused(package, version=cuda) == (what, nearest)


def test_another_cudnn() -> None:
    assert refused("torch==2.1.*", version="12.1", cudnn="9.1") == (
        "torch 2.1 does not work with cuDNN 9.1",
        "cudnn 8.9.2.26, or torch 2.4",
    )


def test_a_cudnn_that_there_never_was() -> None:
    assert refused(version="12.4", cudnn="8.7") == (
        f"there is no cuDNN 8.7 for CUDA 12.4 in NVIDIA's wheels {DATED}",
        "cudnn 8.8",
    )


def test_a_driver_that_is_too_old() -> None:
    assert refused("torch==2.1.*", version="12.1", driver="470.82") == (
        "driver 470.82 is too old for CUDA 12.1, which needs 525 or newer",
        "driver 525, or cuda 11",
    )


def test_a_gpu_that_is_too_new() -> None:
    assert refused("torch==2.1.*", version="12.1", arch=("8.6", "12.0")) == (
        "torch 2.1 does not work with compute capability 12.0",
        "torch 2.8 with cuda 12.8",
    )


def test_a_compiler_that_no_wheel_holds() -> None:
    what, nearest = refused(version="12.4", nvcc=True)

    assert what == "NVIDIA's wheels of CUDA 12.4 hold no nvcc, only its assembler and headers"
    assert nearest.startswith("cuda 13 or later, or no `nvcc` (Debian's non-free archive has 11.8 (bookworm)")


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ResolveError) as error:
        fitted("torch==2.1.*", "tensorflow==2.15.*", python="3.13").check()

    assert error.value.message == "what the spec asks for does not go together"
    assert error.value.details == (
        "torch 2.1 has no Python 3.13 build: python 3.11, or torch >= 2.5\n"
        "tensorflow 2.15 has no Python 3.13 build: python 3.11, or tensorflow >= 2.20"
    )


@pytest.mark.parametrize("package", ["torch==2.1.*", "torch", "jax", "tensorflow", "numpy", "torch==99.*"])
def test_nothing_is_wrong_without_cuda(package: str) -> None:
    fitted(package).check()


def test_what_is_not_known_is_not_taken_for_wrong_but_refused() -> None:
    what, nearest = refused("torch==99.*", version="12.1")

    assert what == f"`torch==99.*` is not in the table of {TABLE.date}"
    assert nearest == "put `allow_unknown: true` into `cuda` to try it, or: mlvm compat"


def test_what_is_not_known_can_be_let_pass_and_is_told() -> None:
    found = fitted("torch==99.*", version="12.1", allow_unknown=True)

    found.check()
    assert found.let_pass == (f"`torch==99.*` is not in the table of {TABLE.date}",)


def test_a_cuda_newer_than_the_table_is_not_known() -> None:
    found = fitted("torch", version="99.0")

    assert [misfit.unknown for misfit in found.misfits] == [True, True]


def test_what_is_known_to_be_wrong_is_never_let_pass() -> None:
    assert refused("torch==2.1.*", version="12.4", allow_unknown=True)[0] == (
        "torch 2.1 does not work with CUDA 12.4"
    )


def test_a_requirement_for_another_python_does_not_count() -> None:
    fitted('torch==2.1.*; python_version < "3.11"', python="3.13").check()


def test_a_table_without_a_framework_knows_nothing_of_it() -> None:
    bare = replace(TABLE, builds={})
    fit(Spec(name="box", python="3.13", packages=("torch==2.1.*",)), bare).check()


def test_locking_refuses_before_anything_is_asked_for(home: Home) -> None:
    """The guard of the tests fails whatever would reach the network or start apt or uv."""
    spec = sample.spec(packages=("torch==2.1.*",), python="3.13", debian="trixie")

    with pytest.raises(ResolveError) as error:
        resolving.resolve(spec, home=home)

    assert error.value.hint == "python 3.11, or torch >= 2.5"
    assert not home.cache.exists()
