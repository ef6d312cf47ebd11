"""Work in the background: begun where there is room, and said."""

from __future__ import annotations

import os
import subprocess
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


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Path]]:
    """What is begun in the background of a host that has room."""
    commands: list[tuple[list[str], Path]] = []
    monkeypatch.setattr(background, "available_memory", lambda: 1 << 40)
    monkeypatch.setattr(
        process, "start_detached", lambda command, *, log_file: commands.append((command, log_file))
    )
    return commands


def test_it_says_what_it_begins_and_writes_a_log(home: Home, begun: list[tuple[list[str], Path]]) -> None:
    tape = TapeObserver()

    background.make_warm(Path("/my project"), loopback_record(home, "box"), observer=tape)

    ((_, log),) = begun
    assert log.parent.is_dir()
    assert len(tape.notes) == 1


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        ("on", ["19 build", "{ours} standby", "{ours} standby --end --older-than 60"]),
        ("saved", ["19 build"]),
    ],
)
def test_the_steps_as_a_shell_takes_them(
    home: Home,
    begun: list[tuple[list[str], Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    allowed: str,
    said: list[str],
) -> None:
    """First at the lowest priority, then on an idle host, last after an hour; hostile names are one word."""
    monkeypatch.setenv("MLVM_WARM", allowed)
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh
echo "$(nice) $*" >> '{tmp_path}/said'
""")
    python.chmod(0o755)
    monkeypatch.setattr(background.sys, "executable", str(python))
    monkeypatch.setattr(background.os, "cpu_count", lambda: 10_000)  # never busy
    project = Path("/a b/$(touch x); '\"")

    background.make_warm(project, loopback_record(home, "box"), observer=TapeObserver())
    command = begun[0][0]
    subprocess.run([*command[:-1], "0"], check=True, env={**os.environ, "PATH": os.environ["PATH"]})

    lines = (tmp_path / "said").read_text().splitlines()
    words = [line.replace("-m mlvm.cli ", "") for line in lines]
    wanted = [line.format(ours=os.nice(0)) for line in said]
    assert [line[: len(start)] for line, start in zip(words, wanted, strict=True)] == wanted
    assert [line.endswith(f"plain {project}") for line in words[:2]] == [True] * len(words[:2])
