"""What a machine uses, read from the books of the host and of the guest."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mlvm.machine import usage
from mlvm.machine.qemu import usage as qemu_usage
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.machine.record import Record, save
from mlvm.paths import Home

MEMINFO = """\
MemTotal:        2014952 kB
MemFree:         1521312 kB
MemAvailable:    1702144 kB
HugePages_Total:       0
"""
NETWORK = """\
Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo ...   |bytes    packets errs drop ...
    lo:    1000      10    0    0    0     0          0         0     1000      10    0    0    0     0       0    0
  eth0:  123456     100    0    0    0     0          0         0    65432      90    0    0    0     0       0    0
"""


class Broken:
    """A provider that cannot even look."""

    def usage(self, record: Record, *, ask: bool) -> None:
        raise OSError("out of order")


def a_record(home: Home) -> Record:
    record = Record(name="one", provider="qemu", image_id="0" * 64, project="/nowhere", home=home)
    record.folder.mkdir(parents=True)
    save(record)
    return record


def test_memory_of_a_guest() -> None:
    assert usage.guest_memory(MEMINFO) == {
        "guest_memory": 2014952 * 1024, "guest_available": 1702144 * 1024
    }  # fmt: skip


def test_network_of_a_guest_is_without_its_loopback() -> None:
    assert usage.guest_network(NETWORK) == {"received": 123456, "sent": 65432}


def test_a_guest_that_says_something_else_tells_nothing() -> None:
    assert (usage.guest_memory("?"), usage.guest_network("?")) == ({}, {})


def test_cpu_time_is_that_of_the_process() -> None:
    before = time.process_time()

    found = qemu_usage.cpu_time(os.getpid())["cpu_seconds"]

    assert before - 0.1 <= found <= time.process_time() + 0.1


def test_a_command_name_with_brackets_and_spaces(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/stat").write_text("7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20 0 1 0 99\n")

    assert qemu_usage.cpu_time(7, tmp_path) == {"cpu_seconds": 400 / os.sysconf("SC_CLK_TCK")}


def test_private_memory_grows_by_what_is_written() -> None:
    before = qemu_usage.memory(os.getpid())["memory_private"]

    block = bytearray(os.urandom(64 << 20))

    grown = qemu_usage.memory(os.getpid())["memory_private"] - before
    assert len(block) <= grown + (4 << 20)


def test_a_stopped_machine_uses_its_disk_only(home: Home) -> None:
    record = a_record(home)
    (record.folder / "overlay.img").write_bytes(os.urandom(1 << 20))

    found = usage.usage(record, QemuProvider())

    assert found is not None
    assert found.disk is not None
    assert found.disk >= 1 << 20
    assert (found.cpu_seconds, found.memory_private, found.guest_memory) == (None, None, None)


def test_of_an_absent_machine_there_is_nothing(home: Home) -> None:
    record = Record(name="one", provider="qemu", image_id="0" * 64, project="/nowhere", home=home)

    assert usage.usage(record, QemuProvider()) is None


def test_a_provider_that_fails_is_nothing_to_fail_for(home: Home) -> None:
    assert usage.usage(a_record(home), Broken()) is None  # type: ignore[arg-type]


def test_a_process_that_has_gone_leaves_what_the_folder_tells(home: Home) -> None:
    found = qemu_usage.look(a_record(home), 2**22 + 1, ask=True)

    assert found is not None
    assert found.disk is not None
    assert found.cpu_seconds is None
