"""`mlvm status --watch` on a terminal and into a pipe."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fakes import write_record
from rich.console import Console

from mlvm.cli import run
from mlvm.cli.kernel_counts import KernelCounts, counted
from mlvm.cli.watch import BLOCKS, picture, spark
from mlvm.machine.overview import Figure, History, Seen
from mlvm.machine.provider import Condition, State
from mlvm.machine.record import Record
from mlvm.paths import Home

COMMAND = [sys.executable, "-m", "mlvm.cli", "status", "--watch", "0.2"]


def read_until(fd: int, wanted: bytes) -> bytes:
    text, deadline = b"", time.monotonic() + 60
    while wanted not in text:
        assert time.monotonic() < deadline, text
        if select.select([fd], [], [], 1)[0]:
            text += os.read(fd, 65536)
    return text


def test_into_a_pipe_go_plain_lines(home: Home, tmp_path: Path) -> None:
    write_record(home, "box", tmp_path)

    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as watching:
        assert watching.stdout is not None
        lines = [watching.stdout.readline().decode() for _ in range(8)]
        watching.stdout.close()  # as `head` does when it has enough
        watching.wait(30)

    assert lines[1].split() == ["name", "state", "kernels", "cpu", "memory", "disk", "network"]
    assert lines[2].split() == ["box", "broken", "-", "-", "-", "-", "-"]  # nobody here knows its provider
    assert lines[3] == "\n"
    assert lines[5] == lines[1]
    assert watching.returncode == -signal.SIGPIPE


def test_on_a_terminal_q_ends_it(home: Home, tmp_path: Path) -> None:
    write_record(home, "box", tmp_path)
    mine, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "110", "LINES": "30"}

    with subprocess.Popen(COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as watching:
        os.close(theirs)
        shown = read_until(mine, b"q ends")
        os.write(mine, b"q")
        read_until(mine, b"\x1b[?1049l")
        watching.wait(30)
    os.close(mine)

    assert b"1 machines, 0 running" in shown
    assert watching.returncode == 0


def test_names_and_reasons_cannot_talk_to_the_terminal() -> None:
    """A guest's last words are among the reasons."""
    condition = Condition(state=State.BROKEN, reasons=("panicked: \x1b]0;owned\x07 [red]",))
    console = Console(width=100, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(picture([Seen(name="[b]x\x1b[2J", condition=condition)], History(), KernelCounts()))

    shown = captured.get()
    assert "\x1b]0" not in shown
    assert "\x1b[2J" not in shown
    assert "[b]x\N{REPLACEMENT CHARACTER}[2J: panicked: \N{REPLACEMENT CHARACTER}]0;owned" in shown
    assert "[red]" in shown


@pytest.mark.parametrize("given", ["0", "-1", "often", "inf", "nan"])
def test_an_interval_is_a_number_of_seconds(
    given: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        run(["status", f"--watch={given}"])

    assert refused.value.code == 2
    assert f"`{given}` is no number of seconds from 0.2 to 3600" in capsys.readouterr().err


def test_json_is_for_programs(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--json", "--watch"]) == 9
    assert "error: `--watch` draws and `--json` does not" in capsys.readouterr().err


def test_a_sparkline() -> None:
    figure = Figure(points=tuple((float(taken), float(taken)) for taken in range(8)))

    assert spark(figure, now=7.5, top=8, width=8, span=8) == BLOCKS
    assert spark(figure, now=107.0, top=8, width=8, span=8) == " " * 8
    assert spark(Figure(), now=0, top=0, width=3) == "   "


class Guest:
    """A guest as far as it is asked for kernels."""

    def __init__(self, *kernels: dict[str, object]) -> None:
        self.kernels = kernels

    def guest(self, record: Record) -> Guest:
        return self

    def list_kernels(self) -> list[dict[str, object]]:
        return [{**TOLD, **one} for one in self.kernels]


TOLD = {
    "kernel_id": "k", "pid": 1, "code": None, "started": 1.0, "activity": 1.0, "kept": 0, "session": "",
    "kernel_name": "", "now": 2.0,
}  # fmt: skip


def test_kernels_are_counted(home: Home, tmp_path: Path) -> None:
    record, running = write_record(home, "box", tmp_path), Condition(state=State.RUNNING)

    def said(*kernels: dict[str, object]) -> str:
        return counted(Seen(name="box", condition=running, record=record, provider=Guest(*kernels)))

    assert said() == "-"
    assert said({}, {"code": 1}) == "1"
    assert said({}, {"busy": True}) == "2, 1 busy"


def test_a_guest_that_answers_late_is_waited_for_no_longer_than_a_moment(home: Home, tmp_path: Path) -> None:
    record, running = write_record(home, "box", tmp_path), Condition(state=State.RUNNING)
    answer = threading.Event()

    class Late(Guest):
        def list_kernels(self) -> list[dict[str, object]]:
            answer.wait(60)
            return super().list_kernels()

    counts = KernelCounts()
    seen = [Seen(name="box", condition=running, record=record, provider=Late({}))]
    counts.look(seen)
    before = counts.of("box")
    answer.set()
    counts.look(seen)

    assert (before, counts.of("box")) == ("-", "1")
