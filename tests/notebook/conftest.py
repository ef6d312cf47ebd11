"""A real IPython shell with the magics loaded, and machines that are folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hearing
import pytest
from fakes import LoopbackProvider, loopback, write_record
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import KernelManager
from notebook_frontend import LOOPBACK, PATIENCE, Frontend
from traitlets.config import Config

from mlvm.errors import MlvmError
from mlvm.events import Observer
from mlvm.kernel import launch
from mlvm.machine import record as records
from mlvm.machine import table
from mlvm.machine.record import Record
from mlvm.paths import Home


@pytest.fixture
def provider(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackProvider]:
    """A loopback provider for every machine there is a record of."""
    with loopback(tmp_path / "loopback") as made:

        def open_machine(place: launch.Place, *, observer: Observer) -> tuple[object, object, object]:
            record = records.load(place.home, place.machine)
            assert record is not None
            return record, made, made.start(record, None, observer=observer)

        monkeypatch.setattr(launch, "open_machine", open_machine)
        monkeypatch.setattr(table, "provider_for", lambda record: made)
        yield made


@pytest.fixture
def machine(home: Home, tmp_path: Path) -> Record:
    """The record of machine `box`."""
    return write_record(home, "box", tmp_path)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """A real IPython shell after `%load_ext mlvm`; what it started is ended with it."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance(config=config)
    made.run_line_magic("load_ext", "mlvm")
    yield made
    made.magics_manager.registry["MlvmMagics"].close()
    InteractiveShell.clear_instance()
    if hasattr(MlvmError, "_render_traceback_"):
        del MlvmError._render_traceback_


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KernelManager, Frontend, Path]]:
    """One local kernel for all tests of this module, the magics loaded."""
    folder = tmp_path_factory.mktemp("attach")
    with pytest.MonkeyPatch.context() as patch:
        for variable in (
            "JUPYTER_DATA_DIR",
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_RUNTIME_DIR",
            "IPYTHONDIR",
            "MLVM_HOME",
        ):
            patch.setenv(variable, str(folder / variable.lower()))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel()
        client = manager.blocking_client()
        client.start_channels()
        hearing.ready(client, timeout=PATIENCE)
        frontend = Frontend(client)
        opening = LOOPBACK.format(tests=str(Path(__file__).parent.parent), folder=str(folder))
        assert frontend.run(opening).reply["status"] == "ok"
        assert frontend.run("%load_ext mlvm").reply["status"] == "ok"
        yield manager, frontend, folder
        frontend.run("%mlvm detach")
        frontend.run("provider.close()")
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def notebook(started: tuple[KernelManager, Frontend, Path]) -> Frontend:
    """The frontend, its notebook attached to machine `box`."""
    frontend = started[1]
    ran = frontend.run("%mlvm attach box")
    assert ran.reply["status"] == "ok", ran.reply
    return frontend
