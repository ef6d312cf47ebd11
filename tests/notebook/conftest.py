"""A real IPython shell with the magics loaded, and machines that are folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import LoopbackProvider, loopback, write_record
from IPython.core.interactiveshell import InteractiveShell
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
