"""The monitor of a real QEMU that runs nothing."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlvm.errors import MachineError
from mlvm.machine.qemu import forward, qmp
from mlvm.machine.qemu.argv import monitor_args, network_args, share_args

pytestmark = pytest.mark.boot


@pytest.fixture
def monitor_socket(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "qmp.sock"
    idle = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35", "-S"]
    network = [*share_args(tmp_path), *network_args("user", "52:54:00:00:00:01")]
    with subprocess.Popen([*idle, *monitor_args(path), *network]) as qemu:
        while not path.exists():
            assert qemu.poll() is None
            time.sleep(0.01)
        yield path
        qemu.kill()


def test_commands_are_answered(monitor_socket: Path) -> None:
    with qmp.connect(monitor_socket) as monitor:
        assert monitor.execute("query-status")["status"] == "prelaunch"


def test_a_refusal_carries_qemus_words(monitor_socket: Path) -> None:
    with qmp.connect(monitor_socket) as monitor:
        with pytest.raises(MachineError, match="QEMU refused `dance`: The command dance has not been found"):
            monitor.execute("dance")


def test_it_works_inside_a_running_loop(monitor_socket: Path) -> None:
    """As in a notebook, whose cells run inside one."""

    async def cell() -> str:
        with qmp.connect(monitor_socket) as monitor:
            return str(monitor.execute("query-status")["status"])

    assert asyncio.run(cell()) == "prelaunch"


def test_one_after_another(monitor_socket: Path) -> None:
    for _ in range(5):
        with qmp.connect(monitor_socket) as monitor:
            monitor.execute("query-status")


def test_who_will_not_wait_is_turned_away(monitor_socket: Path) -> None:
    with qmp.connect(monitor_socket), pytest.raises(BlockingIOError):
        with qmp.connect(monitor_socket, wait=False):
            pytest.fail("two had it")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="the machine is not running"):
        with qmp.connect(tmp_path / "none.sock"):
            pass


def test_qemu_ending_meanwhile_is_an_error_not_a_hang(monitor_socket: Path) -> None:
    with qmp.connect(monitor_socket) as monitor:
        monitor.execute("quit")
        with pytest.raises(MachineError, match="QEMU ended during `query-status`"):
            monitor.execute("query-status")


def test_a_file_is_handed_over(monitor_socket: Path, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as stream, qmp.connect(monitor_socket) as monitor:
        monitor.hand_over("ours", stream.fileno())
        monitor.execute("closefd", fdname="ours")


def test_ports_come_and_go(monitor_socket: Path) -> None:
    with qmp.connect(monitor_socket) as monitor:
        first, second = forward.add(monitor, 7001), forward.add(monitor, 7001)
        again = forward.add(monitor, 7001, first)

        assert again == first != second
        assert forward.rules(monitor) == {first: 7001, second: 7001}
        forward.remove(monitor, first)
        forward.remove(monitor, first)
        assert forward.rules(monitor) == {second: 7001}


def test_the_port_it_had_before_or_another(monitor_socket: Path) -> None:
    with qmp.connect(monitor_socket) as monitor:
        had = forward.add(monitor, 7001)
        other = forward.add_like(monitor, 7002, wanted=had)

        assert other != had
        assert forward.rules(monitor) == {had: 7001, other: 7002}
