"""Keeping everybody else from changing a machine meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlvm import files
from mlvm.events import Observer
from mlvm.machine.record import Record


@contextmanager
def hold(record: Record, observer: Observer) -> Iterator[None]:
    """Keep everybody else from changing the machine; say so when somebody else keeps us waiting."""

    def waiting() -> None:
        observer.note(f"another mlvm works on machine `{record.name}`; waiting for it")

    with files.hold(record.home.machines / ".holds" / record.name, waiting=waiting):
        yield
