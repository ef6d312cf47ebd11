"""A pytest plugin that points other projects' tests at a kernel in a machine: `pytest -p pointed`.

Whatever Python kernel they ask for is ours, in the machine whose agent runs in `MLVM_TEST_WORLD`.
"""

from __future__ import annotations

import os
from pathlib import Path

import agent_world
import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager

from mlvm.kernel import kernelspec

NAMES = ("python", "python3", "echo")
STARTED: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    folder = Path(os.environ["MLVM_TEST_WORLD"])
    agent_world.enter(folder)
    original = KernelSpecManager.get_kernel_spec

    def get_kernel_spec(self: KernelSpecManager, kernel_name: str) -> KernelSpec:
        if kernel_name not in NAMES:
            return original(self, kernel_name)
        STARTED.append(kernel_name)
        document = kernelspec.document("box", folder / "project", "box")
        return KernelSpec(resource_dir="", **document)

    KernelSpecManager.get_kernel_spec = get_kernel_spec  # type: ignore[method-assign]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    kernels = len(agent_world.AgentGuest(agent_world.World.folder).list_kernels())
    terminalreporter.write_line(
        f"{len(STARTED)} times a kernel in a machine was asked for, {kernels} are known"
    )
