"""The chain as a person types it, end to end, in one machine: the real command line, a real guest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlvm.machine.timings import JOINED
from mlvm.paths import Home

pytestmark = [pytest.mark.boot, pytest.mark.network]

MACHINE = "chain"


def mlvm(
    *words: str, stdin: str | None = None, check: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "mlvm.cli", *words]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=check, cwd=cwd, timeout=600
    )


@pytest.fixture(scope="module")
def machine(
    chain_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[subprocess.CompletedProcess[str]]:
    """The answer of `mlvm up python-3.11`; the machine is destroyed at the end."""
    yield mlvm("up", "python-3.11", "--name", MACHINE, "--frozen")
    mlvm("destroy", "--yes", MACHINE, check=False)


def test_up_says_what_to_do_next(machine: subprocess.CompletedProcess[str]) -> None:
    assert f"machine `{MACHINE}` is running\nshares " in machine.stdout
    assert f"next: mlvm run {MACHINE}" in machine.stdout
    for stage in ("firmware", "guest kernel", "init", "agent"):
        assert stage in machine.stderr


def test_up_again_does_nothing(machine: object) -> None:
    again = mlvm("up", "python-3.11", "--name", MACHINE, "--frozen")

    assert f"machine `{MACHINE}` is running" in again.stdout


def test_status_as_json(machine: object) -> None:
    (shown,) = [row for row in json.loads(mlvm("status", "--json").stdout) if row["name"] == MACHINE]

    assert (shown["state"], shown["reasons"], shown["provider"]) == ("running", [], "qemu")


def test_run_passes_streams_and_exit_code(machine: object) -> None:
    done = mlvm(
        "run", MACHINE, "--", "sh", "-c", "tr a-z A-Z; echo told >&2; exit 7", stdin="hello\n", check=False
    )

    assert (done.stdout, done.stderr, done.returncode) == ("HELLO\n", "told\n", 7)


def test_it_is_another_system(machine: object) -> None:
    done = mlvm("run", MACHINE, "--", "uname", "-nr")

    assert done.stdout.split() == [MACHINE, done.stdout.split()[1]]
    assert done.stdout.split()[1] != os.uname().release


def test_arguments_are_not_words_of_a_shell(machine: object) -> None:
    done = mlvm("run", MACHINE, "--", "printf", "%s|", "a b", "$HOME", "'", ";reboot")

    assert done.stdout == "a b|$HOME|'|;reboot|"


def test_ssh_knows_the_host_key(machine: object) -> None:
    done = mlvm("ssh", MACHINE, "--", "hostname")

    assert done.stdout == MACHINE + "\n"


def test_nothing_listens_beyond_loopback(machine: object) -> None:
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    ours = [line.split()[3] for line in listening.splitlines() if "qemu-system" in line]

    assert ours
    assert all(address.startswith("127.0.0.1:") for address in ours)


def test_timings_add_up_to_the_time_it_took(machine: object) -> None:
    mlvm("stop", MACHINE)

    began = time.monotonic()
    done = mlvm(
        "up", "python-3.11", "--name", MACHINE, "--frozen", "--timings", "--json", "--progress", "none"
    )
    took = time.monotonic() - began

    rows = json.loads(done.stdout)["timings"]
    host = {row["stage"]: row["seconds"] for row in rows if row["clock"] == "host"}
    guest = {row["stage"]: row["seconds"] for row in rows if row["clock"] == "guest"}
    stages = {stage for row in guest for stage in row.split(JOINED)}
    assert stages == {"guest kernel", "initramfs", "systemd", "units before the agent", "agent"}
    # Around them are only the start of the command, and its questions to the guest.
    assert 0.5 * took < sum(host.values()) < took
    # The guest's clock begins a little before its first line on the console.
    seen = sum(host[stage] for stage in ("guest kernel", "init", "agent"))
    assert sum(guest.values()) == pytest.approx(seen, rel=0.25, abs=1.5)


def test_a_file_outlives_stop_and_up(machine: object) -> None:
    mlvm("run", MACHINE, "--", "sh", "-c", "echo kept > /home/mlvm/file && sync")

    mlvm("stop", MACHINE)
    (stopped,) = [
        row["state"] for row in json.loads(mlvm("status", "--json").stdout) if row["name"] == MACHINE
    ]
    mlvm("up", "python-3.11", "--name", MACHINE, "--frozen")

    assert stopped == "stopped"
    assert mlvm("run", MACHINE, "--", "cat", "/home/mlvm/file").stdout == "kept\n"
