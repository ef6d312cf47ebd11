"""QEMU takes what we write for devices of the host.

There is no GPU to give away where tests run: another device stands in its place, on the same ports of the same board,
before and after the start; and QEMU itself looks for a device of the host that is not there.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlvm.machine.qemu import argv, qmp
from mlvm.machine.qemu.host import Accelerator

pytestmark = pytest.mark.boot

CARDS = ("0000:01:00.0", "0000:01:00.1", "0000:3b:00.4")
#: A PCI device that QEMU has for teaching; it has memory, interrupts and DMA as a GPU has.
EDU = (0x1234, 0x11E8)


def stand_in(address: str) -> tuple[str, dict[str, object]]:
    return "edu", {"id": "card-" + address.replace(":", "-").replace(".", "-")}


def board() -> list[str]:
    """Return the board of every machine, with an IOMMU and nothing to boot: its firmware counts the devices."""
    return [
        "qemu-system-x86_64", *argv.confinement_args(), *argv.machine_args(Accelerator.TCG),
        *argv.cpu_args(2), *argv.memory_args(256 << 20, None, "7.2.0"), "-device", "intel-iommu",
    ]  # fmt: skip


@contextmanager
def started(folder: Path, *more: str) -> Iterator[qmp.Monitor]:
    socket = folder / "qmp.sock"
    child = subprocess.Popen([*board(), *argv.monitor_args(socket), *more], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not socket.exists():
            assert child.poll() is None, child.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with qmp.connect(socket) as monitor:
            yield monitor
    finally:
        child.kill()
        child.communicate()


def behind_ports(
    monitor: qmp.Monitor, wanted: dict[str, list[tuple[int, int]]]
) -> dict[str, list[tuple[int, int]]]:
    """Return slot and function of the stand-ins behind each root port, once they are as wanted or time is up."""
    deadline = time.monotonic() + 60
    while (found := _behind_ports(monitor)) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _behind_ports(monitor: qmp.Monitor) -> dict[str, list[tuple[int, int]]]:
    ports = [one for one in monitor.execute("query-pci")[0]["devices"] if "pci_bridge" in one]
    devices: dict[str, list[dict[str, Any]]] = {
        port["qdev_id"]: port["pci_bridge"].get("devices", []) for port in ports
    }
    return {
        name: [(d["slot"], d["function"]) for d in found if (d["id"]["vendor"], d["id"]["device"]) == EDU]
        for name, found in devices.items()
    }


def test_each_card_is_behind_a_port_with_its_functions_together(tmp_path: Path) -> None:
    wanted = {"gpu0": [(0, 0), (0, 1)], "gpu1": [(0, 0)]}

    with started(tmp_path, *argv.passthrough_args(CARDS, stand_in)) as monitor:
        assert behind_ports(monitor, wanted) == wanted


def test_a_card_is_plugged_while_the_machine_runs(tmp_path: Path) -> None:
    empty = argv.passthrough_args(CARDS[:1], stand_in)[:2]

    with started(tmp_path, *empty) as monitor:
        assert behind_ports(monitor, {"gpu0": []}) == {"gpu0": []}
        monitor.execute("device_add", driver="edu", id="late", bus="gpu0", addr="0.0")
        assert behind_ports(monitor, {"gpu0": [(0, 0)]}) == {"gpu0": [(0, 0)]}


def test_qemu_itself_looks_for_the_hosts_device(tmp_path: Path) -> None:
    command = [*board(), *argv.passthrough_args(("ffff:ff:1f.7",))]

    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    assert done.returncode != 0
    assert "ffff:ff:1f.7: no such host device" in done.stderr
