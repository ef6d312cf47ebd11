"""What boots quickly is still a Debian: what a person expects of one works, in both releases."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from mlvm.events import SILENT
from mlvm.machine import ssh_config
from mlvm.machine.guest import Guest
from mlvm.machine.qemu import keys
from mlvm.machine.record import Record
from mlvm.machine.table import provider_for
from mlvm.paths import Home
from mlvm.project import Project

pytestmark = [pytest.mark.boot, pytest.mark.network]

PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
SPEC = "name: {release}\ndebian: {release}\npython: '{python}'\npackages: []\nmachine: {{memory: 1 GiB, disk: 1 GiB}}\n"


@pytest.fixture(scope="module", params=PYTHON)
def machine(
    request: pytest.FixtureRequest, chain_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Project, Record]]:
    release = request.param
    folder = tmp_path_factory.mktemp(release)
    (folder / "mlvm.yaml").write_text(SPEC.format(release=release, python=PYTHON[release]))
    project = Project(folder=folder, home=chain_home)
    record = project.up(f"settled-{release}", observer=SILENT)
    yield project, record
    provider_for(record).destroy(record, observer=SILENT)


@pytest.fixture
def guest(machine: tuple[Project, Record]) -> Guest:
    return provider_for(machine[1]).guest(machine[1])


def said(guest: Guest, *command: str, user: str | None = None) -> str:
    done = guest.run(command, user=user, timeout=120)
    assert done.code == 0, (command, done.stdout, done.stderr)
    return done.stdout.decode()


def test_the_boot_ends_well(guest: Guest) -> None:
    assert said(guest, "systemctl", "is-system-running", "--wait", user="root") == "running\n"
    assert said(guest, "systemctl", "--failed", "--no-legend", "--plain") == ""


def test_the_agent_s_interpreter_was_tasted_before_it_came(guest: Guest) -> None:
    """Nothing else would tell: a boot without it only takes longer."""
    log = said(guest, "dmesg", user="root")
    assert log.count("mlvm-agent: foretaste") == 1
    assert "Traceback" not in log


def test_a_kernel_waits_for_whoever_asks_first(guest: Guest) -> None:
    """It is the user's, and listens nowhere."""
    listed = said(guest, "ps", "-eo", "user:20,pid,args", user="root").splitlines()
    ((user, pid, *_),) = [line.split() for line in listed if "cradle.py" in line and line.endswith(" wait")]
    assert user == "mlvm"
    mine = [line for line in said(guest, "ss", "-Hltnp", user="root").splitlines() if f"pid={pid}," in line]
    # ipykernel's own pipe for children's output, and nothing of the five channels.
    assert all(line.split()[3].startswith("127.0.0.1:") for line in mine)
    assert len(mine) <= 1


def test_ssh_answers_before_anybody_has_started_it(machine: tuple[Project, Record]) -> None:
    record = machine[1]
    config = record.folder / keys.CONFIG

    done = subprocess.run(
        ["ssh", "-F", config, ssh_config.alias(record.name), "hostname"],
        capture_output=True,
        timeout=120,
        check=False,
    )

    assert (done.stdout.decode(), done.returncode) == (f"{record.name}\n", 0), done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("sudo", "-n", "true"),
        ("hostnamectl", "status"),
        ("loginctl", "list-sessions"),
        ("sudo", "-n", "journalctl", "-b", "-n", "5"),
        ("sudo", "-n", "systemd-run", "--wait", "--quiet", "true"),
        ("sudo", "-n", "modprobe", "dm_mod"),
        ("dpkg", "--audit"),
        ("sudo", "-n", "apt-get", "check"),
        ("systemctl", "cat", "ssh.service"),
    ],
    ids=" ".join,
)
def test_it_works(guest: Guest, command: tuple[str, ...]) -> None:
    said(guest, *command)


def test_devices_have_nodes_and_owners(guest: Guest) -> None:
    nodes = said(guest, "stat", "-c", "%n %a %G", "/dev/fuse", "/dev/net/tun", "/dev/vda", "/dev/null")

    assert nodes.splitlines() == [
        "/dev/fuse 666 root", "/dev/net/tun 666 root", "/dev/vda 660 disk", "/dev/null 666 root",
    ]  # fmt: skip
    assert said(guest, "sh", "-c", "test -e /dev/disk/by-id/virtio-system; echo $?") == "0\n"


def test_the_address_is_there_and_the_host_reached(guest: Guest) -> None:
    assert "10.0.2.15/24" in said(guest, "ip", "-4", "address", "show", "eth0")
    assert said(guest, "ip", "-4", "route", "show", "default").startswith("default via 10.0.2.2 dev eth0")


def test_tmp_begins_empty_and_for_all(machine: tuple[Project, Record], guest: Guest) -> None:
    said(guest, "sh", "-c", "echo old > /tmp/old; mkdir /tmp/.hidden; echo kept > /var/tmp/kept; sync")
    provider_for(machine[1]).stop(machine[1], observer=SILENT)
    machine[0].up(machine[1].name, observer=SILENT)

    assert said(guest, "stat", "-c", "%a", "/tmp", "/var/tmp") == "1777\n1777\n"
    assert said(guest, "sh", "-c", "cat /tmp/old /tmp/.hidden 2>/dev/null || cat /var/tmp/kept") == "kept\n"
