"""All machines at a glance, and rates from what was seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import LoopbackProvider, loopback, write_record

from mlvm.events import SILENT
from mlvm.machine import overview, table
from mlvm.machine.overview import Figure, History, Seen
from mlvm.machine.provider import Condition, State
from mlvm.machine.usage import Usage
from mlvm.paths import Home


def seen(taken: float, name: str = "box", **used: float) -> Seen:
    usage = Usage(taken=taken, **used)  # type: ignore[arg-type]
    return Seen(name=name, condition=Condition(state=State.RUNNING), usage=usage)


def test_a_look_at_all(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(tmp_path / "machines") as provider:
        monkeypatch.setattr(table, "provider_for", lambda record: provider)
        for name in ("one", "two"):
            record = write_record(home, name, tmp_path)
        provider.start(record, None, observer=SILENT)
        (home.machines / "bad").mkdir()
        (home.machines / "bad" / "machine.json").write_text("{")

        found = overview.look(home)

    assert [(one.name, str(one.condition.state)) for one in found] == [
        ("bad", "broken"),
        ("one", "stopped"),
        ("two", "running"),
    ]
    assert "cannot be read" in found[0].condition.reasons[0]
    assert found[2].usage is not None


def test_a_guest_is_asked_only_while_it_runs(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    class Provider(LoopbackProvider):
        def usage(self, record: object, *, ask: bool) -> None:
            asked.append(ask)

    provider = Provider(tmp_path)
    monkeypatch.setattr(table, "provider_for", lambda record: provider)
    record = write_record(home, "box", tmp_path)
    overview.look(home)
    provider.states["box"] = State.RUNNING
    overview.look(home)
    overview.look(home, ask=False)
    overview.look(home, busy={"box"})
    provider.close()

    assert asked == [False, True, False, False]
    assert record.name == "box"


def test_rates() -> None:
    history = History()
    history.add([seen(10, cpu_seconds=1, disk_read=0, disk_written=100, received=5, sent=5)])
    history.add([seen(12, cpu_seconds=2, disk_read=300, disk_written=200, received=5, sent=25)])

    figures = history.figures("box")

    assert figures.cpu == Figure(points=((12, 0.5),))
    assert figures.disk == Figure(points=((12, 200.0),))
    assert figures.network == Figure(points=((12, 10.0),))


def test_a_restart_is_no_negative_rate() -> None:
    history = History()
    for taken, seconds in ((10, 100), (12, 1), (14, 3)):
        history.add([seen(taken, cpu_seconds=seconds)])

    assert history.figures("box").cpu == Figure(points=((14, 1.0),))


def test_memory_is_the_guests_word_or_the_hosts() -> None:
    history = History()
    history.add([seen(10, memory_private=7)])
    assert history.figures("box").memory == Figure(points=((10, 7),))

    history.add([seen(12, memory_private=7, guest_memory=100, guest_available=60)])

    assert history.figures("box").memory == Figure(points=((12, 40),))


def test_old_looks_and_gone_machines_are_forgotten() -> None:
    history = History(kept=5)
    for taken in (10, 12, 18):
        history.add([seen(taken, memory_private=taken)])
    assert [taken for taken, _ in history.figures("box").memory.points] == [18]

    history.add([])

    assert history.figures("box").memory == Figure()
    assert history.figures("box").memory.last is None
