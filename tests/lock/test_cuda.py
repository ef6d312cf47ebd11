"""From a wish for CUDA to what uv is asked for, and back to what the lock says of it."""

from __future__ import annotations

from pathlib import Path

import lock_sample as sample
import pytest

from mlvm.errors import LockError
from mlvm.lock import compatibility
from mlvm.lock.cuda import Wishes, needs_of, parted, record_of, wishes
from mlvm.lock.diff import describe
from mlvm.lock.document import CudaRecord
from mlvm.lock.fit import fit
from mlvm.lock.fresh import stale_reasons
from mlvm.lock.python import resolve_python
from mlvm.lock.text import dumps, loads
from mlvm.spec.document import CudaWish, Spec
from mlvm.spec.reader import loads as read

TABLE = compatibility.load(compatibility.SHIPPED)
RECORD = CudaRecord(version="12.1", cudnn="8.9.2.26", driver="525", arch="5.0", table="2026-11-24")
WISH = {"version": "12.1", "cudnn": "8.9"}


def box(*packages: str, **cuda: object) -> Spec:
    return Spec(name="box", packages=packages, cuda=CudaWish(**cuda) if cuda else None)  # type: ignore[arg-type]


def asked(*packages: str, **cuda: object) -> Wishes:
    spec = box(*packages, **cuda)
    return wishes(spec, fit(spec, TABLE), TABLE)


def test_without_cuda_the_spec_is_what_is_asked_for() -> None:
    assert asked("torch==2.1.*") == Wishes(requirements=("torch==2.1.*",))


def test_a_torch_and_its_cuda() -> None:
    found = asked("torch==2.1.*", **WISH)

    assert found.requirements == (
        "torch==2.1.*", "cuda-toolkit[cudart,nvrtc]==12.1.1", "nvidia-cudnn-cu12==8.9.*"
    )  # fmt: skip
    assert found.constraints[0] == "torch>=2.1.0,<=2.1.2"
    assert "nvidia-nvjitlink-cu12==12.1.105.*" in found.constraints


def test_an_open_requirement_is_kept_to_what_fits() -> None:
    assert asked("torch", version="12.4").constraints[0] == "torch>=2.5.0,<=2.6.0"


@pytest.mark.parametrize(
    ("package", "cuda", "with_extra"),
    [
        ("jax>=0.6", "12.9", "jax[cuda12]>=0.6"),
        ("jax>=0.6", "13.0", "jax[cuda13]>=0.6"),
        ("tensorflow==2.15.*", "12.2", "tensorflow[and-cuda]==2.15.*"),
        ("numpy", "12.2", "numpy"),
    ],
)
def test_the_extra_that_brings_nvidias_wheels_is_asked_for(package: str, cuda: str, with_extra: str) -> None:
    assert asked(package, version=cuda).requirements[0] == with_extra


def test_the_compiler_with_what_it_needs() -> None:
    assert asked(version="13.0", nvcc=True).requirements == (
        "cuda-toolkit[cccl,crt,cudart,nvcc,nvrtc,nvvm]==13.0.3.0",
    )


def test_what_a_framework_pins_otherwise_is_left_to_it() -> None:
    """torch 2.7 takes nvrtc of 12.6.2 beside libraries of 12.6.3."""
    found = asked("torch==2.7.1", version="12.6")

    assert "cuda-toolkit[cudart]==12.6.3" in found.requirements
    assert not [text for text in found.constraints if text.startswith("nvidia-cuda-nvrtc")]


def test_a_framework_whose_cuda_no_release_describes_brings_its_own() -> None:
    """NVIDIA's `cuda-toolkit` 12.5.1 names the parts of 12.5.0, which are older than what tensorflow wants."""
    found = asked("tensorflow==2.21.*", version="12.5")

    assert found.requirements == ("tensorflow[and-cuda]==2.21.*",)
    assert "nvidia-cuda-runtime-cu12==12.5.*" in found.constraints


def test_a_torch_with_its_cuda_inside_gets_no_other() -> None:
    spec = Spec(name="box", python="3.10", packages=("torch==1.12.1",), cuda=CudaWish(version="10.2"))

    assert wishes(spec, fit(spec, TABLE), TABLE).requirements == ("torch==1.12.1",)


def test_the_record_of_a_lock() -> None:
    spec = box("torch==2.1.*", **WISH)
    pylock = sample.pylock(
        {"torch": "2.1.2", "nvidia-cuda-runtime-cu12": "12.1.105", "nvidia-cudnn-cu12": "8.9.2.26"}
    )

    assert record_of(pylock, spec, fit(spec, TABLE), TABLE) == CudaRecord(
        version="12.1", cudnn="8.9.2.26", driver="525", arch="5.0", table=TABLE.date
    )


def test_a_newer_driver_that_the_spec_wants_is_the_oldest_that_will_do() -> None:
    assert needs_of(box(version="12.1", driver="550.54"), TABLE).driver == "550.54"


def test_no_cuda_no_record() -> None:
    spec = box("numpy")

    assert record_of(sample.pylock({"numpy": "2.4.6"}), spec, fit(spec, TABLE), TABLE) is None


def test_cuda_is_parted_from_the_rest() -> None:
    packages = sample.pylock(
        {"numpy": "2.4", "nvidia-cublas": "13.0", "cuda-toolkit": "13.0", "torch": "2.15"}
    )

    cuda, rest = parted(packages.packages)

    assert [package.name for package in cuda] == ["cuda-toolkit", "nvidia-cublas"]
    assert [package.name for package in rest] == ["numpy", "torch"]


def cuda_lock(**changes: object) -> object:
    inputs = {"debian": "bookworm", "python": "3.11", "packages": ["numpy>=2"], "cuda": WISH}
    return sample.lock(cuda=RECORD, inputs=inputs, **changes)


def test_a_lock_with_cuda_is_read_as_it_was_written() -> None:
    lock = cuda_lock()

    assert loads(dumps(lock)) == lock


def test_a_broken_record_is_complained_of() -> None:
    text = (
        dumps(cuda_lock())
        .replace('driver = "525"', 'driver = "new"')
        .replace('cudnn = "8.9"\n', "cudnn = 8.9\n")
    )

    with pytest.raises(LockError) as error:
        loads(text)

    assert error.value.details.splitlines() == [
        "inputs.cuda.cudnn: a version in numbers, such as 12.1 is wanted, found 8.9",
        "cuda.driver: a version in numbers, such as 12.1 is wanted, found 'new'",
    ]


def test_a_lock_from_before_is_as_fresh_as_it_was() -> None:
    lock = sample.lock()

    assert "cuda" not in dumps(lock)
    assert not [reason for reason in stale_reasons(sample.spec(), lock) if reason.startswith("cuda")]


def test_another_cuda_makes_a_lock_stale() -> None:
    spec = sample.spec(cuda=CudaWish(version="12.4", arch=("8.0", "9.0")))

    assert stale_reasons(spec, cuda_lock()) == [
        "cuda: version 12.1, cudnn 8.9 -> version 12.4, arch 8.0 and 9.0",
    ]


def test_letting_unknown_pairs_pass_does_not() -> None:
    spec = sample.spec(cuda=CudaWish(**WISH, allow_unknown=True))

    assert stale_reasons(spec, cuda_lock()) == []


def test_a_difference_says_what_a_host_must_have() -> None:
    other = CudaRecord(version="13.0", cudnn="9.1", driver="580", arch="7.5", table="2026-11-24")

    assert describe(cuda_lock(), sample.lock(cuda=other, inputs=cuda_lock().inputs))[:2] == [
        "cuda: oldest driver 525 -> 580",
        "cuda: oldest GPU 5.0 -> 7.5",
    ]


def test_the_spec_as_it_is_written() -> None:
    spec = read('name: box\ncuda: {version: "12.1", cudnn: "8.9", arch: ["8.6"], nvcc: false}\n')

    assert spec.cuda == CudaWish(version="12.1", cudnn="8.9", arch=("8.6",))
    assert spec.resolution_inputs()["cuda"] == {"version": "12.1", "cudnn": "8.9", "arch": ["8.6"]}


@pytest.mark.network
@pytest.mark.parametrize(
    ("package", "cuda", "versions"),
    [
        ("torch==2.1.*", WISH, {"nvidia-cuda-runtime-cu12": "12.1.105", "nvidia-nvjitlink-cu12": "12.1.105"}),
        ("torch==2.7.1", {"version": "12.6"}, {"nvidia-cuda-runtime-cu12": "12.6.77"}),
        (
            "torch",
            {"version": "13.0", "nvcc": True},
            {"nvidia-cuda-runtime": "13.0.96", "nvidia-cuda-nvcc": "13.0.88"},
        ),
        (
            "tensorflow==2.15.*",
            {"version": "12.2"},
            {"nvidia-cuda-runtime-cu12": "12.2.140", "tensorflow": "2.15.1"},
        ),
        ("tensorflow==2.21.*", {"version": "12.5"}, {"nvidia-cuda-runtime-cu12": "12.5.82"}),
        ("jax<0.11", {"version": "12.8"}, {"nvidia-cuda-runtime-cu12": "12.8.90"}),
    ],
)
def test_uv_finds_what_the_table_promises(
    package: str, cuda: dict[str, object], versions: dict[str, str], tmp_path: Path
) -> None:
    spec = box(package, **cuda)
    found = fit(spec, TABLE)
    wanted = wishes(spec, found, TABLE)

    pylock = resolve_python(
        wanted.requirements,
        constraints=wanted.constraints,
        python="3.11",
        release="bookworm",
        cache_folder=tmp_path,
    )

    locked = {str(one.name): str(one.version) for one in pylock.packages}
    assert {name: locked.get(name) for name in versions} == versions
    assert record_of(pylock, spec, found, TABLE) is not None
