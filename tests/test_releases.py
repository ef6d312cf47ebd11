"""The other Debian release, resolved today and booted, in a machine without a network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlvm.events import SILENT
from mlvm.machine.guest import Guest
from mlvm.machine.table import provider_for
from mlvm.paths import Home
from mlvm.project import Project

pytestmark = [pytest.mark.boot, pytest.mark.network]

SPEC = """\
name: newest
debian: trixie
python: "3.13"
packages: [packaging]
network: none
env: {GREETING: "hello, guest"}
machine: {cpus: 1, memory: 1 GiB, disk: 1 GiB}
"""


@pytest.fixture(scope="module")
def guest(chain_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """The guest of a project that was never locked: `up` does it all."""
    folder = tmp_path_factory.mktemp("newest")
    (folder / "mlvm.yaml").write_text(SPEC)
    record = Project(folder=folder, home=chain_home).up(observer=SILENT)
    yield provider_for(record).guest(record)
    provider_for(record).destroy(record, observer=SILENT)


def test_python_is_the_release_s_own(guest: Guest) -> None:
    done = guest.run(
        ["/opt/mlvm/venv/bin/python", "-c", "import sys, packaging, ipykernel; print(sys.version[:4])"]
    )

    assert done.stdout == b"3.13\n", done.stderr


def test_nothing_failed_while_booting(guest: Guest) -> None:
    done = guest.run(["systemctl", "--failed", "--no-legend", "--plain"])

    assert done.stdout == b""


def test_dpkg_is_content(guest: Guest) -> None:
    done = guest.run(["dpkg", "--audit"])

    assert (done.code, done.stdout, done.stderr) == (0, b"", b"")


def test_without_a_network_nothing_is_reached(guest: Guest) -> None:
    reach = "import socket; socket.create_connection(('10.0.2.2', 22), 5)"

    done = guest.run(["/opt/mlvm/venv/bin/python", "-c", reach])

    assert done.code == 1
    assert (
        done.stderr.rstrip()
        .splitlines()[-1]
        .startswith((b"TimeoutError", b"OSError", b"ConnectionRefusedError"))
    )


def test_shape_is_as_asked(guest: Guest) -> None:
    done = guest.run(["sh", "-c", "nproc; df -B1 --output=size / | tail -1; grep MemTotal /proc/meminfo"])

    cpus, disk, memory = done.stdout.decode().splitlines()
    assert cpus == "1"
    assert 0.8e9 < int(disk) < 1.1e9
    assert 0.8e6 < int(memory.split()[1]) < 1.1e6
