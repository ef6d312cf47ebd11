"""Machines that are folders of this host, for notebooks that are really run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import LoopbackProvider, loopback, loopback_record

from mlvm.events import Observer
from mlvm.kernel import launch
from mlvm.paths import Home


@pytest.fixture
def provider(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackProvider]:
    """A loopback provider behind the door through which kernels find their machine."""
    with loopback(tmp_path / "machines") as made:

        def open_machine(place: launch.Place, *, observer: Observer) -> tuple[object, object, object]:
            record = loopback_record(place.home, place.machine)
            return record, made, made.start(record, None, observer=observer)

        monkeypatch.setattr(launch, "open_machine", open_machine)
        yield made
