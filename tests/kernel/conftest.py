"""Kernels through the whole Jupyter path, in machines that are folders of this host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import LoopbackProvider, loopback, loopback_record
from jupyter_client.manager import KernelManager

from mlvm.events import Observer
from mlvm.kernel import kernelspec, launch
from mlvm.paths import Home
from mlvm.spec.document import Spec


@pytest.fixture
def provider(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackProvider]:
    """A loopback provider behind the door through which kernels find their machine."""
    with loopback(tmp_path / "machines") as made:

        def open_machine(place: launch.Place, *, observer: Observer) -> tuple[object, object, object]:
            record = loopback_record(place.home, place.machine)
            return record, made, made.start(record, None, observer=observer)

        monkeypatch.setattr(launch, "open_machine", open_machine)
        yield made


@pytest.fixture
def jupyter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jupyter's folders, empty and our own."""
    for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable.lower()))
    monkeypatch.delenv("JUPYTER_PATH", raising=False)
    # what is installed beside this Python (by `make demo`, say) is none of a test's business
    monkeypatch.setattr("jupyter_core.paths.ENV_JUPYTER_PATH", [])
    return tmp_path / "jupyter_data_dir"


@pytest.fixture
def kernel_name(jupyter: Path, tmp_path: Path) -> str:
    """The name of an installed kernelspec of ours, for machine `box`."""
    return kernelspec.install(Spec(name="box"), tmp_path / "project").name


@pytest.fixture
def manager(provider: LoopbackProvider, kernel_name: str) -> Iterator[KernelManager]:
    """A kernel manager for that kernelspec; its kernel is ended afterwards."""
    made = KernelManager(kernel_name=kernel_name)
    yield made
    if made.has_kernel:
        made.shutdown_kernel(now=True)
