"""What a kernel is called where people choose one: its main framework and version, CUDA if it has it.

Made from the lock, since that is what will run: `torch 2.1 · CUDA 12.1 · mlvm`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from packaging.version import Version

    from mlvm.lock.document import Lock

Versions = dict[str, "Version | None"]

#: What a box is chosen for, the most telling first.
FRAMEWORKS = (
    "torch",
    "tensorflow",
    "jax",
    "mxnet",
    "paddlepaddle",
    "transformers",
    "xgboost",
    "lightgbm",
    "scikit-learn",
    "pandas",
    "numpy",
)
#: A CUDA runtime as a wheel: `nvidia-cuda-runtime-cu12`, since CUDA 13 `nvidia-cuda-runtime`.
RUNTIME = re.compile(r"nvidia-cuda-runtime(-cu\d+)?")
#: A CUDA that a wheel was built for: `2.1.0+cu121`.
BUILT_FOR = re.compile(r"cu(\d+)(\d)")


def title(lock: Lock) -> str:
    """Return how kernels of a lock are called."""
    versions: Versions = {canonicalize_name(one.name): one.version for one in lock.python.packages}
    parts = [_framework(versions) or f"Python {lock.inputs.get('python', '')}".strip()]
    if cuda := _cuda(versions):
        parts.append(f"CUDA {cuda}")
    return " · ".join([*parts, "mlvm"])


def _framework(versions: Versions) -> str:
    for name in FRAMEWORKS:
        if version := versions.get(name):
            return f"{name} {version.major}.{version.minor}"
    return ""


def _cuda(versions: Versions) -> str:
    for name, version in versions.items():
        if version and RUNTIME.fullmatch(name):
            return f"{version.major}.{version.minor}"
    for version in versions.values():
        if version and (built := BUILT_FOR.fullmatch(version.local or "")):
            return f"{built[1]}.{built[2]}"
    return ""
