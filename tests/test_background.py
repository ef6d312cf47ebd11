"""Work in the background: begun where there is room, and said."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import TapeObserver, loopback_record

from mlvm import background, process
from mlvm.paths import Home


@pytest.mark.parametrize(
    ("text", "size"),
    [("MemTotal: 100 kB\nMemAvailable:   50 kB\n", 50 * 1024), ("MemTotal: 100 kB\n", 1 << 60)],
)
def test_available_memory(tmp_path: Path, text: str, size: int) -> None:
    (tmp_path / "meminfo").write_text(text)

    assert background.available_memory(tmp_path / "meminfo") == size


def test_a_host_that_cannot_tell_has_plenty(tmp_path: Path) -> None:
    assert background.available_memory(tmp_path / "nothing") == 1 << 60


def test_with_too_little_memory_nothing_is_begun(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "available_memory", lambda: 5 << 20)
    monkeypatch.setattr(process, "start_detached", lambda *_, **__: pytest.fail("something was begun"))
    tape = TapeObserver()

    background.make_warm(Path("/project"), loopback_record(home, "box"), observer=tape)

    assert tape.notes == ["no warm state is made: 5 MiB of memory are free, too few for one more machine"]


def test_it_runs_at_the_lowest_priority_and_writes_a_log(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[tuple[list[str], Path]] = []
    monkeypatch.setattr(background, "available_memory", lambda: 1 << 40)
    monkeypatch.setattr(
        process, "start_detached", lambda command, *, log_file: begun.append((command, log_file))
    )
    tape = TapeObserver()

    background.make_warm(Path("/my project"), loopback_record(home, "box"), observer=tape)

    ((command, log),) = begun
    assert command[:3] == ["nice", "-n", "19"]
    assert command[-1] == "/my project"
    assert log.parent.is_dir()
    assert len(tape.notes) == 1
