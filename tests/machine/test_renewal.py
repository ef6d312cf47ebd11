"""Two copies of a kernel process draw everything anew: compared for the frameworks that a warm state may hold.

A real process with real generators is copied by `fork`, which copies its memory as a warm start does; both copies do
what a kernel does when it is told that its machine is a copy.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.jupyter

CRADLE = Path(__file__).parents[2] / "mlvm" / "agent" / "cradle.py"
#: A folder of wheels that has torch, for hosts that have it nowhere else.
WHEELS = "MLVM_BENCH_WHEELS"

COPIES = """
import importlib.util, json, os, random, sys, tempfile, types, warnings
warnings.simplefilter("ignore")  # torch without NumPy warns
spec = importlib.util.spec_from_file_location("cradle", sys.argv[1])
cradle = importlib.util.module_from_spec(spec); spec.loader.exec_module(cradle)
with_torch, renewed = "torch" in sys.argv[2:], "renewed" in sys.argv[2:]
if with_torch:
    import torch
    torch.manual_seed(1); torch.rand(3)
import numpy
random.seed(1); numpy.random.seed(1); next(tempfile._get_candidate_names())
kept = numpy.random.default_rng(1)
reading, writing = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        if renewed:
            cradle.renew(types.SimpleNamespace(iopub_thread=None))
        drawn = {
            "random": random.random(), "numpy legacy": numpy.random.random(),
            "numpy generator": numpy.random.default_rng().random(), "tempfile": next(tempfile._get_candidate_names()),
            "a variable's own generator": kept.random(),
        }
        if with_torch:
            drawn |= {
                "torch.rand": torch.rand(1).item(), "torch.randint": torch.randint(1 << 62, (1,)).item(),
                "torch.nn": torch.nn.Linear(2, 2).weight.tolist(), "torch.initial_seed": torch.initial_seed(),
                "torch.Generator": torch.Generator().seed(),
                "torch.randperm": torch.randperm(10**6).tolist()[:8],
            }
        os.write(writing, json.dumps(drawn).encode() + bytes([10]))
        os._exit(0)
for _ in range(2):
    os.wait()
os.close(writing)
sys.stdout.write(os.fdopen(reading).read())
"""


def drawn_by_two(*words: str, path: str = "") -> list[dict[str, object]]:
    """Return what two copies of a process drew."""
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", COPIES, str(CRADLE), *words],
        env=env,
        capture_output=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def alike(two: list[dict[str, object]]) -> set[str]:
    one, other = two
    return {what for what in one if one[what] == other[what]}


@pytest.fixture(scope="module")
def torch_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where torch is: installed, or unpacked from a folder of wheels. Its Python parts need no more than we have."""
    if importlib.util.find_spec("torch"):
        return ""
    wheels = sorted(Path(os.environ.get(WHEELS, "/nowhere")).glob("torch-*.whl"))
    if not wheels:
        pytest.skip(f"there is no torch here, nor a wheel of it in ${WHEELS}")
    folder = tmp_path_factory.mktemp("torch")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", folder, wheels[-1]],
        check=True,
    )
    return str(folder)


def test_numpy_and_python() -> None:
    pytest.importorskip("numpy")

    assert alike(drawn_by_two("renewed")) == {"a variable's own generator"}


def test_without_renewal_they_would_be_alike() -> None:
    """The test above can fail. (Python itself sees to `random` and names of temporary files where a process forks.)"""
    pytest.importorskip("numpy")

    assert {"numpy legacy"} <= alike(drawn_by_two())


def test_torch(torch_path: str) -> None:
    assert alike(drawn_by_two("renewed", "torch", path=torch_path)) == {"a variable's own generator"}
    assert {"torch.rand", "torch.nn", "torch.randperm"} <= alike(drawn_by_two("torch", path=torch_path))
