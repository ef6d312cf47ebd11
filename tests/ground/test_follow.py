"""Programs that are followed line by line, and clean up when they are interrupted."""

from __future__ import annotations

import _thread
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from mlvm import process
from mlvm.errors import ProgramError


def test_lines_come_as_they_are_written() -> None:
    heard: list[tuple[str, float]] = []
    process.follow(
        ["/bin/sh", "-c", "echo one; sleep 0.5; echo two"],
        heard=lambda line: heard.append((line, time.monotonic())),
    )
    assert [line for line, _ in heard] == ["one", "two"]
    assert heard[1][1] - heard[0][1] > 0.3


def test_what_goes_to_stderr_is_heard_too() -> None:
    heard: list[str] = []
    process.follow(["/bin/sh", "-c", "echo no >&2"], heard=heard.append)
    assert heard == ["no"]


def test_a_last_line_without_an_end_is_heard() -> None:
    heard: list[str] = []
    process.follow(["/bin/sh", "-c", "printf a"], heard=heard.append)
    assert heard == ["a"]


def test_the_exit_code_is_returned() -> None:
    assert process.follow(["/bin/sh", "-c", "exit 7"], heard=print) == 7


def test_a_program_in_the_background_that_keeps_the_output_open_is_not_waited_for() -> None:
    began = time.monotonic()
    process.follow(["/bin/sh", "-c", "sleep 30 & echo done"], heard=lambda _: None)
    assert time.monotonic() - began < 10


def test_a_missing_program_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match="cannot be started"):
        process.follow([tmp_path / "none"], heard=print)


#: Says when it may be interrupted, and what it hears.
CAREFUL = """
import signal, sys, time
count = 0
def heard(*_):
    global count
    count += 1
    print("cleaning", count, flush=True)
signal.signal(signal.SIGINT, heard)
print("ready", flush=True)
while count < int(sys.argv[1]):
    time.sleep(0.05)
time.sleep(0.3)
print("clean", flush=True)
"""


def interrupted(times: int) -> list[str]:
    """Follow a program that wants so many interrupts, and interrupt ourselves as often."""
    heard: list[str] = []

    def interrupt() -> None:
        for number in range(times):
            while not any(line == ("ready" if number == 0 else f"cleaning {number}") for line in heard):
                time.sleep(0.01)
            _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        process.follow([sys.executable, "-c", CAREFUL, str(times)], heard=heard.append)
    return heard


def test_one_interrupt_is_handed_on_once_and_cleaning_up_is_waited_for() -> None:
    assert interrupted(1) == ["ready", "cleaning 1", "clean"]


def test_a_second_interrupt_is_handed_on_as_well() -> None:
    assert interrupted(2)[-2:] == ["cleaning 2", "clean"]


def test_who_does_not_clean_up_in_time_is_ended() -> None:
    heard: list[str] = []
    stubborn = "trap '' INT; echo $$; sleep 60"

    def interrupt() -> None:
        while not heard:
            time.sleep(0.01)
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        process.follow(["/bin/sh", "-c", stubborn], heard=heard.append, patience=0.3)
    with pytest.raises(ProcessLookupError):
        os.kill(int(heard[0]), 0)
