"""Machines that start from a warm state: quick, and each a machine of its own."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import hearing
import pytest
from fakes import Tape
from jupyter_client import BlockingKernelClient

from mlvm.errors import MachineError
from mlvm.events import SILENT
from mlvm.image.document import Image
from mlvm.machine import create
from mlvm.machine.channel import AgentGuest
from mlvm.machine.provider import Limits, State
from mlvm.machine.qemu import launching, qmp, warm
from mlvm.machine.qemu.argv import FRESH, Launch
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import Record
from mlvm.paths import Home
from mlvm.project import Project
from mlvm.spec.document import PortForward

from .frontend import Notebook

pytestmark = [pytest.mark.boot, pytest.mark.network]

DAY = 24 * 3600.0
PYTHON = "/opt/mlvm/venv/bin/python"


@pytest.fixture(autouse=True, scope="module")
def allowed(chain_home: Home) -> Iterator[None]:
    """Switch on what this home switches off for other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLVM_WARM", "saved")  # what is on standby has tests of its own
        yield


@pytest.fixture(scope="module")
def project(numpy_project: Project) -> Project:
    return numpy_project


@pytest.fixture(scope="module")
def image(project: Project) -> Image:
    """The image, and the warm state of its machines."""
    project.make_warm()
    return project.build(frozen=True)


@pytest.fixture(scope="module")
def provider() -> QemuProvider:
    return QemuProvider()


def fresh(project: Project, image: Image, name: str) -> Record:
    return create.ensure(project.home, name, image=image, spec=project.spec(), project=project.folder)


@pytest.fixture(scope="module")
def copies(project: Project, image: Image, provider: QemuProvider) -> Iterator[list[Record]]:
    """Two machines from one warm state, side by side."""
    records = [fresh(project, image, name) for name in ("one", "two")]
    for record in records:
        tape = Tape()
        provider.start(record, image, observer=tape)
        assert tape.stages == ["warm"], tape.notes
    yield records
    for record in records:
        provider.destroy(record, observer=SILENT)


DRAW = """
import os, random, uuid, tempfile, ssl, numpy, json
k = get_ipython().kernel
print(json.dumps({
    "urandom": os.urandom(16).hex(), "uuid4": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()),
    "random": random.random(), "tempfile": next(tempfile._get_candidate_names()),
    "ssl": ssl.RAND_bytes(16).hex(),
    "numpy legacy": numpy.random.random(), "numpy generator": numpy.random.default_rng().random(),
    "session": k.session.session, "key": k.session.key.decode(),
}))
"""


def test_two_copies_share_no_secret_and_no_name(copies: list[Record], provider: QemuProvider) -> None:
    notebooks = [Notebook(provider, record) for record in copies]
    drawn = [json.loads(notebook.run(DRAW)) for notebook in notebooks]
    told = {
        "hostname": "hostname",
        "machine id": "cat /etc/machine-id",
        "mac": "cat /sys/class/net/eth0/address",
        "host key": "cat /etc/ssh/ssh_host_ed25519_key.pub || sudo ssh-keygen -yf /etc/ssh/ssh_host_ed25519_key",
        "urandom of the guest": "head -c 16 /dev/urandom | od -x",
        "uuid of the guest kernel": "cat /proc/sys/kernel/random/uuid",
    }
    for mine, notebook in zip(drawn, notebooks, strict=True):
        mine["kernel id"] = notebook.kernel.kernel_id
        for what, command in told.items():
            mine[what] = notebook.guest.run(["sh", "-c", command]).stdout.decode().strip()
    for notebook in notebooks:
        notebook.close()

    one, two = drawn
    assert [what for what in one if not one[what] or one[what] == two[what]] == []


def test_the_preloaded_kernel_is_the_first_one_and_the_next_are_its_kin(
    copies: list[Record], provider: QemuProvider
) -> None:
    guest = provider.guest(copies[0])
    notebook, other = Notebook(provider, copies[0]), Notebook(provider, copies[0])

    look = "import sys, os; print('numpy' in sys.modules, os.getppid())"
    seen = [notebook.run(look), other.run(look)]
    guest.signal_kernel(notebook.kernel.kernel_id, 9)
    deadline = time.monotonic() + 30
    while guest.poll_kernel(notebook.kernel.kernel_id) is None and time.monotonic() < deadline:
        time.sleep(0.05)

    assert seen[0] == seen[1]
    assert seen[0].startswith("True ")
    assert guest.poll_kernel(notebook.kernel.kernel_id) == -9
    assert other.run("1 + 1") == "2"
    notebook.close()
    other.close()


def test_the_clock_is_right(copies: list[Record], provider: QemuProvider) -> None:
    for record in copies:
        asked = time.time()
        clock = float(provider.guest(record).run(["date", "+%s.%N"]).stdout)
        assert asked - 1 < clock < time.time() + 1


def test_forwards_follow_the_new_hardware_address(copies: list[Record], provider: QemuProvider) -> None:
    for record in copies:
        done = subprocess.run(
            [*provider.ssh_command(record), "hostname"], capture_output=True, timeout=120, check=False
        )
        assert (done.stdout.decode(), done.stderr) == (f"{record.name}\n", b"")


def test_tls_with_a_certificate_made_just_now(
    copies: list[Record], provider: QemuProvider, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=host", "-addext", "subjectAltName=DNS:host", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(120)

    def answer() -> None:
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as served:
            served.sendall(b"well")

    server = threading.Thread(target=answer, daemon=True)
    server.start()
    guest = provider.guest(copies[0])
    guest.put("/tmp/certificate.pem", certificate.read_bytes())
    ask = (
        "import socket, ssl; c = ssl.create_default_context(cafile='/tmp/certificate.pem');"
        f"s = c.wrap_socket(socket.create_connection(('10.0.2.2', {listener.getsockname()[1]}), 60),"
        " server_hostname='host'); print(s.recv(4).decode())"
    )

    done = guest.run([PYTHON, "-c", ask])
    server.join(10)
    listener.close()

    assert done.stdout == b"well\n", done.stderr


def test_ten_days_of_sleep_fire_nothing_in_a_burst(
    copies: list[Record], image: Image, provider: QemuProvider
) -> None:
    """Ten days pass between saving and going on: the clock is right, and a thread that ticks has not caught up."""
    record = copies[1]
    guest = provider.guest(record)
    notebook = Notebook(provider, record)
    notebook.run(
        "import threading, time\n"
        "ticks = []\n"
        "def tick():\n"
        "    while True:\n"
        "        time.sleep(0.5); ticks.append(time.monotonic())\n"
        "threading.Thread(target=tick, daemon=True).start()"
    )
    guest.run(["date", "-s", f"@{time.time() - 10 * DAY:.0f}"], user="root")
    before = int(notebook.run("print(len(ticks))"))
    notebook.close()
    provider.suspend(record, observer=SILENT)
    began = time.monotonic()
    resumed = provider.start(record, image, observer=SILENT)
    asked = time.time()
    clock = float(resumed.run(["date", "+%s.%N"]).stdout)
    answered = time.time()
    ports = provider.forward(record, notebook.kernel.ports)
    client = BlockingKernelClient(
        ip="127.0.0.1",
        curve_publickey=notebook.client.curve_publickey,
        curve_secretkey=notebook.client.curve_secretkey,
        **ports,
    )
    client.session.key = notebook.client.session.key
    client.start_channels(hb=False)
    hearing.ready(client, timeout=120)
    printed: list[str] = []
    client.execute_interactive(
        "print(len(ticks))", timeout=60, output_hook=lambda m: printed.append(m["content"].get("text", ""))
    )
    client.stop_channels()

    assert asked - 1 < clock < answered + 1
    passed = time.monotonic() - began
    assert before <= int("".join(printed)) <= before + passed / 0.5 + 4


def test_a_snapshot_is_gone_back_to_as_often_as_wanted(
    copies: list[Record], image: Image, provider: QemuProvider
) -> None:
    """Kernel, variables and files are as they were; the frontend's own connection goes on."""
    record, other = copies
    guest = provider.guest(record)
    notebook = Notebook(provider, record)
    notebook.run("x = 1; import random")
    guest.put("/home/mlvm/file", b"before")
    provider.snapshot(record, "before", observer=SILENT)
    drawn = set()

    for _ in range(2):
        notebook.run("x = 2")
        guest.put("/home/mlvm/file", b"after")
        guest = provider.go_back(record, image, "before", observer=SILENT)

        assert notebook.run("x") == "1"
        assert guest.get("/home/mlvm/file") == b"before"
        drawn.add(notebook.run("random.random()"))

    assert len(drawn) == 2
    assert [one.name for one in provider.snapshots(record)] == ["before"]
    assert provider.snapshots(other) == []
    with pytest.raises(MachineError, match="has a snapshot `before` already"):
        provider.snapshot(record, "before", observer=SILENT)
    with pytest.raises(MachineError, match="has no snapshot `never`"):
        provider.go_back(record, image, "never", observer=SILENT)
    assert provider.guest(record).get("/home/mlvm/file") == b"before"
    provider.stop(record, observer=SILENT)
    assert provider.go_back(record, image, "before", observer=SILENT).get("/home/mlvm/file") == b"before"
    provider.forget_snapshot(record, "before", observer=SILENT)
    assert provider.snapshots(record) == []
    notebook.close()


def test_a_machine_with_a_history_boots_and_keeps_its_disk(
    copies: list[Record], image: Image, provider: QemuProvider
) -> None:
    record = copies[1]
    provider.guest(record).put("/home/mlvm/kept", b"of course")
    provider.stop(record, observer=SILENT)
    tape = Tape()

    guest = provider.start(record, image, observer=tape)

    assert "init" in tape.stages
    assert guest.get("/home/mlvm/kept") == b"of course"
    assert guest.run(["hostname"]).stdout == b"two\n"


@pytest.mark.parametrize("damage", ["ram.img", "devices.bin"])
def test_a_damaged_state_is_a_cold_start_with_a_reason(
    project: Project, image: Image, provider: QemuProvider, damage: str
) -> None:
    (folder,) = (project.home.store / "warm").iterdir()
    kept = folder.with_name("kept")
    folder.rename(kept)
    subprocess.run(["cp", "-a", "--sparse=always", kept, folder], check=True)
    status = (folder / damage).stat()
    (folder / damage).chmod(0o600)
    if damage == "ram.img":
        (folder / damage).write_bytes(b"short")
    else:  # as long and as old as it was: only QEMU can tell
        (folder / damage).write_bytes(secrets.token_bytes(status.st_size))
        subprocess.run(["touch", "-r", kept / damage, folder / damage], check=True)
    record = fresh(project, image, "damaged")
    tape = Tape()

    try:
        guest = provider.start(record, image, observer=tape)

        assert guest.run(["hostname"]).stdout == b"damaged\n"
        assert len([note for note in tape.notes if note.startswith("cold start")]) == 1
        assert "\n" not in tape.notes[-1]
        assert "init" in tape.stages
    finally:
        provider.destroy(record, observer=SILENT)
        subprocess.run(["rm", "-rf", folder], check=True)
        kept.rename(folder)


def test_a_qemu_that_cannot_map_the_state_is_a_cold_start_with_a_reason(
    project: Project, image: Image, provider: QemuProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends before anybody could ask it anything, as it does where it may not open the RAM."""
    (folder,) = (project.home.store / "warm").iterdir()
    kept = folder.with_name("kept")
    subprocess.run(["cp", "-a", "--sparse=always", folder, kept], check=True)
    spawn = launching.spawn

    def lost(launch: Launch) -> Run:
        gone = launch.ram and replace(launch.ram, path=Path("/nowhere/ram"))
        return spawn(replace(launch, ram=gone))

    monkeypatch.setattr(launching, "spawn", lost)
    record = fresh(project, image, "unmapped")
    tape = Tape()

    try:
        guest = provider.start(record, image, observer=tape)

        assert guest.run(["hostname"]).stdout == b"unmapped\n"
        (note,) = [note for note in tape.notes if note.startswith("cold start")]
        assert note.startswith(
            "cold start: the warm state is no good, and is thrown away (QEMU ended at once: "
        )
        assert "\n" not in note
        assert "init" in tape.stages
    finally:
        provider.destroy(record, observer=SILENT)
        subprocess.run(["rm", "-rf", folder], check=True)
        kept.rename(folder)


def test_a_taken_port_is_not_the_states_fault(project: Project, image: Image, provider: QemuProvider) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        spec = replace(project.spec(), ports=(PortForward(guest=80, host=port),))
        record = create.ensure(project.home, "taken", image=image, spec=spec, project=project.folder)
        with pytest.raises(MachineError, match=f"port {port} of 127.0.0.1 cannot be forwarded"):
            provider.start(record, image, observer=SILENT)
    tape = Tape()

    try:
        guest = provider.start(record, image, observer=tape)

        assert tape.stages == ["warm"]
        assert guest.run(["hostname"]).stdout == b"taken\n"
    finally:
        provider.destroy(record, observer=SILENT)


def test_another_shape_or_module_needs_another_state(project: Project, image: Image) -> None:
    record = fresh(project, image, "other")
    provider = QemuProvider()

    assert provider.has_warm(record, image)
    assert not provider.has_warm(replace(record, preload=("json",)), image)
    assert not provider.has_warm(replace(record, shape=replace(record.shape, memory=2 << 30)), image)
    assert not provider.has_warm(replace(record, network="none"), image)
    assert provider.has_warm(replace(record, name="third", mac="52:54:00:00:00:09"), image)
    provider.destroy(record, observer=SILENT)


def test_making_it_again_makes_nothing(project: Project, image: Image) -> None:
    (folder,) = (project.home.store / "warm").iterdir()
    before = (folder / "warm.json").stat()

    project.make_warm(frozen=True)

    assert (folder / "warm.json").stat() == before


def test_a_fresh_machine_is_fresh_until_it_starts(
    project: Project, image: Image, provider: QemuProvider
) -> None:
    record = fresh(project, image, "untouched")

    assert (record.folder / FRESH).exists()
    assert provider.state(record).state is State.STOPPED
    provider.destroy(record, observer=SILENT)


def test_no_state_holds_an_identity(project: Project) -> None:
    """What makes a machine somebody is given after the copy: none of it is on the disk that all copies get."""
    (folder,) = (project.home.store / "warm").iterdir()

    content = (folder / "overlay.img").read_bytes()

    assert b"OPENSSH PRIVATE KEY" not in content
    assert warm.RAM in {path.name for path in folder.iterdir()}
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
    # Its owner may write it: an ordinary user's QEMU before 8.2 could not map it otherwise.
    assert (folder / warm.RAM).stat().st_mode & 0o777 == 0o600


def test_the_agent_guest_is_reachable_without_a_client_left(copies: list[Record]) -> None:
    """Eight at once, one on each port: none of them was lost with the clients of before."""
    guest = AgentGuest(copies[0].home.sockets(copies[0].name))
    seen: list[object] = []
    threads = [threading.Thread(target=lambda: seen.append(guest.ping(60)["hostname"])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == ["one"] * 8


def test_nothing_that_is_asked_of_a_copy_changes_what_all_share(
    copies: list[Record], project: Project, image: Image, provider: QemuProvider
) -> None:
    """Neither memory asked back, by us or by QEMU's own command, nor memory used and freed, nor limits."""
    (folder,) = (path for path in (project.home.store / "warm").iterdir() if path.name[0] != ".")
    found, _ = warm.find(provider._starter.plan(copies[1], image, SILENT))
    assert found is not None
    assert found.folder == folder
    before = stamp(folder / warm.RAM)
    record, guest = copies[1], provider.guest(copies[1])

    with pytest.raises(MachineError, match="`two` keeps the memory it has"):
        provider.limit(record, Limits(memory=512 << 20), observer=SILENT)
    with qmp.connect(launching.monitor_socket(record)) as monitor:
        with pytest.raises(MachineError, match=r"[Bb]alloon"):
            monitor.execute("balloon", value=512 << 20)
    provider.limit(record, Limits(disk_iops=1000, cpu_weight=50), observer=SILENT)
    guest.run(["python3", "-c", "b = bytearray(b'x') * 300_000_000; del b"], timeout=120)
    guest.run(["sh", "-c", "echo 3 > /proc/sys/vm/drop_caches"], user="root", timeout=120)

    devices = guest.run(["sh", "-c", "cat /sys/bus/virtio/devices/*/device"]).stdout.split()
    assert b"0x0005" not in devices  # what a balloon is called
    assert stamp(folder / warm.RAM) == before


def stamp(path: Path) -> tuple[str, int, int]:
    """Return what changes when a file does, holes included."""
    os.sync()  # what was written lately gets its blocks only then
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    status = path.stat()
    return digest, status.st_mtime_ns, status.st_blocks
