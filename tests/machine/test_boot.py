"""Real machines: what is promised of the qemu provider, kept by QEMU and a real guest.

Boots are dear under emulation, so tests share one machine and come in the order of its life; each says what
it needs.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Tape

from mlvm.errors import GuestError, MachineError, StageTimeout
from mlvm.events import SILENT
from mlvm.image.document import Image
from mlvm.machine import create
from mlvm.machine.channel import AgentGuest
from mlvm.machine.provider import Condition, State
from mlvm.machine.qemu import accelerator, launching, ready, run_record
from mlvm.machine.qemu.argv import Launch
from mlvm.machine.qemu.host import Accelerator, probe_host
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.machine.record import Record
from mlvm.paths import Home, shipped
from mlvm.project import Project
from mlvm.spec.document import GIB, MIB, MachineShape, PortForward, Spec

pytestmark = [pytest.mark.boot, pytest.mark.network]

NAME = "life"


@pytest.fixture(scope="module")
def image(chain_home: Home) -> Image:
    return Project(folder=shipped("boxes") / "python-3.11", home=chain_home).build(frozen=True)


@pytest.fixture(scope="module")
def provider() -> QemuProvider:
    return QemuProvider()


@pytest.fixture(scope="module")
def machine(chain_home: Home, image: Image, provider: QemuProvider) -> Iterator[Record]:
    """A machine with a small disk, stopped to begin with."""
    spec = Spec(name=NAME, machine=MachineShape(cpus=2, memory=GIB, disk=256 * MIB))
    record = create.ensure(chain_home, NAME, image=image, spec=spec, project=Path("/somewhere"))
    yield record
    provider.destroy(record, observer=SILENT)
    assert provider.state(record) == Condition(state=State.ABSENT)
    assert not chain_home.sockets(NAME).exists()


@pytest.fixture
def guest(machine: Record, image: Image, provider: QemuProvider) -> AgentGuest:
    """The machine's guest; it is started if it does not run."""
    return provider.start(machine, image, observer=SILENT)


def test_the_smallest_guest_proves_an_accelerator(image: Image) -> None:
    assert accelerator.boot(probe_host(), image.vmlinuz, Accelerator.TCG, seconds=60) > 0


def test_start_goes_through_the_stages(machine: Record, image: Image, provider: QemuProvider) -> None:
    assert provider.state(machine) == Condition(state=State.STOPPED)
    tape = Tape()

    provider.start(machine, image, observer=tape)

    assert tape.stages == list(ready.STAGES)
    assert provider.state(machine) == Condition(state=State.RUNNING)


def test_start_of_a_running_machine_does_nothing(
    machine: Record, image: Image, provider: QemuProvider
) -> None:
    tape = Tape()

    provider.start(machine, image, observer=tape)

    assert (tape.stages, tape.notes) == ([], [])


def test_the_guest_is_the_machine_it_was_told_to_be(guest: AgentGuest, machine: Record) -> None:
    said = guest.run(["sh", "-c", "hostname; id -un; cat /etc/machine-id; cd; pwd"]).stdout.decode().split()

    assert said == [NAME, "mlvm", (machine.folder / "machine-id").read_text(), "/home/mlvm"]
    assert guest.ping()["hostname"] == NAME


def test_programs_run_as_users(guest: AgentGuest) -> None:
    assert guest.run(["sh", "-c", "id -u; exit 5"], user="root").stdout == b"0\n"
    assert guest.run(["sudo", "-n", "id", "-u"]).stdout == b"0\n"
    assert guest.run(["sh", "-c", "exit 5"]).code == 5


def test_an_agent_that_nobody_asks_does_nothing(guest: AgentGuest) -> None:
    """Measured in the guest: seconds of CPU that the agent's threads took while no client was connected."""
    used = "ps -o times= -p $(systemctl show -P MainPID mlvm-agent.service)"
    before = int(guest.run(["sh", "-c", used]).stdout)

    time.sleep(8)

    assert int(guest.run(["sh", "-c", used]).stdout) - before <= 1


def test_a_terminal_in_the_guest(guest: AgentGuest) -> None:
    out = io.BytesIO()

    code = guest.stream(["tty"], stdin=None, stdout=out, stderr=out, tty=True)

    assert (code, out.getvalue()[:9]) == (0, b"/dev/pts/")


def test_files_go_in_and_out(guest: AgentGuest) -> None:
    content = os.urandom(1_000_000)
    guest.put("/home/mlvm/kept", content, owner="mlvm", mode=0o600)

    assert guest.get("/home/mlvm/kept") == content
    assert guest.run(["stat", "-c", "%U %a", "kept"]).stdout == b"mlvm 600\n"


def test_a_client_killed_in_the_middle_of_a_line_harms_nobody(guest: AgentGuest) -> None:
    for _ in range(3):
        with guest.channel.connect() as session:
            session.connection.sendall(
                b'\n{"op":"hello","nonce":"1"}\n{"op":"exec","argv":["sleep","100"]}\n{"i'
            )

    assert guest.run(["echo", "well"]).stdout == b"well\n"


def test_a_vanished_client_takes_its_program_with_it(guest: AgentGuest) -> None:
    with guest.channel.session() as session:
        session.send({"op": "exec", "argv": ["sleep", "1234"]})
        session.receive(20)

    assert eventually(lambda: guest.run(["pgrep", "-f", "sleep 1234"]).code == 1)


def test_a_kernel_lives_in_the_guest(guest: AgentGuest) -> None:
    kernel = guest.start_kernel({"key": "k", "transport": "tcp"}, env={}, cwd=None)

    assert set(kernel.ports) == {"shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"}
    assert eventually(lambda: listens(guest, kernel.ports["hb_port"]), 300)
    assert guest.run(["ps", "-o", "user=", str(kernel.pid)]).stdout == b"mlvm\n"
    guest.signal_kernel(kernel.kernel_id, signal.SIGKILL)
    assert eventually(lambda: guest.poll_kernel(kernel.kernel_id) == -signal.SIGKILL)


def test_ssh_knows_the_host_key_and_refuses_another(
    guest: AgentGuest, machine: Record, provider: QemuProvider
) -> None:
    del guest
    command = provider.ssh_command(machine)
    done = subprocess.run([*command, "hostname"], capture_output=True, timeout=90, check=False)
    known = machine.folder / "known_hosts"
    right = known.read_text()
    wrong = subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", machine.folder / "other"], check=True
    )
    del wrong
    kind, blob, *_ = (machine.folder / "other.pub").read_text().split()
    known.write_text(f"mlvm-{NAME} {kind} {blob}\n")
    refused = subprocess.run([*command, "hostname"], capture_output=True, timeout=90, check=False)
    known.write_text(right)

    assert (done.stdout, done.returncode) == (f"{NAME}\n".encode(), 0), done.stderr
    assert (refused.stdout, refused.returncode) == (b"", 255)
    assert b"Host key verification failed" in refused.stderr


def test_forwards_reach_the_guest_and_listen_on_loopback_only(
    guest: AgentGuest, machine: Record, provider: QemuProvider
) -> None:
    serve = (
        "cd /tmp && echo inside > page && exec python3 -m http.server --bind 10.0.2.15 8000 >/dev/null 2>&1 &"
    )
    guest.run(["sh", "-c", serve])
    ports = provider.forward(machine, {"web": 8000, "other": 8001})

    assert eventually(lambda: page(ports["web"]) == b"inside\n", 30)
    assert listening(machine) <= {"127.0.0.1"}
    provider.unforward(machine, ports)
    with pytest.raises(OSError, match="refused"):
        page(ports["web"])


def test_suspend_and_resume_keep_processes_and_set_the_clock(
    guest: AgentGuest, machine: Record, image: Image, provider: QemuProvider
) -> None:
    guest.run(["sh", "-c", "nohup sleep 4321 > /dev/null 2>&1 &"])
    before = guest.run(["pgrep", "-f", "sleep 4321"]).stdout

    provider.suspend(machine, observer=SILENT)
    suspended = provider.state(machine)
    time.sleep(3)
    resumed = provider.start(machine, image, observer=SILENT)
    asked = time.time()
    clock = float(resumed.run(["date", "+%s.%N"]).stdout)
    answered = time.time()

    assert suspended == Condition(state=State.SUSPENDED)
    assert resumed.run(["pgrep", "-f", "sleep 4321"]).stdout == before != b""
    assert asked - 1.0 < clock < answered + 1.0
    assert provider.state(machine) == Condition(state=State.RUNNING)


def test_a_full_disk_is_told_and_survived(guest: AgentGuest) -> None:
    guest.run(["sh", "-c", "head -c 400M /dev/zero > filler"], timeout=300)

    with pytest.raises(GuestError) as caught:
        guest.put("/home/mlvm/more", bytes(8_000_000))
    assert str(caught.value) == "cannot write `/home/mlvm/more` in the guest: No space left on device"
    guest.run(["rm", "filler"])
    guest.put("/home/mlvm/more", b"fits again")
    assert guest.get("/home/mlvm/more") == b"fits again"


def test_stop_and_two_starts_at_once_make_one_machine_with_its_files(
    guest: AgentGuest, machine: Record, image: Image, provider: QemuProvider
) -> None:
    kept = guest.get("/home/mlvm/kept")
    provider.stop(machine, observer=SILENT)
    stopped = provider.state(machine)
    provider.stop(machine, observer=SILENT)  # twice is no error
    tapes = [Tape(), Tape()]
    threads = [
        threading.Thread(target=provider.start, args=(machine, image), kwargs={"observer": tape})
        for tape in tapes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert stopped == Condition(state=State.STOPPED)
    assert sorted(bool(tape.stages) for tape in tapes) == [False, True]
    assert [f"another mlvm works on machine `{NAME}`; waiting for it"] in [tape.notes for tape in tapes]
    assert provider.guest(machine).get("/home/mlvm/kept") == kept


def test_a_killed_qemu_is_a_stopped_machine_with_a_reason(
    guest: AgentGuest, machine: Record, provider: QemuProvider
) -> None:
    run = run_record.load(machine)
    assert run is not None
    os.kill(run.pid, signal.SIGKILL)
    assert eventually(lambda: provider.state(machine).state is State.STOPPED)

    assert provider.state(machine).reasons == (f"its QEMU process {run.pid} ended unexpectedly",)
    with pytest.raises(GuestError, match=r"the machine (is not running|went away)"):
        guest.ping()
    with pytest.raises(MachineError, match=f"cannot reach the guest of machine `{NAME}`: it is stopped"):
        provider.guest(machine)


def test_a_taken_port_is_named_and_nothing_stays(
    machine: Record, image: Image, provider: QemuProvider
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError) as caught:
            provider.start(
                replace(machine, ports=(PortForward(guest=80, host=port),)), image, observer=SILENT
            )

    assert str(caught.value) == f"port {port} of 127.0.0.1 cannot be forwarded to the guest's port 80"
    assert provider.state(machine) == Condition(state=State.STOPPED)


def test_a_layer_that_is_gone_ends_qemu_with_its_words(
    machine: Record, image: Image, provider: QemuProvider
) -> None:
    broken = replace(image, layers=(*image.layers[:-1], replace(image.layers[-1], path=Path("/no/layer"))))

    with pytest.raises(MachineError) as caught:
        provider.start(machine, broken, observer=SILENT)
    assert str(caught.value) == "QEMU ended at once"
    assert "/no/layer" in caught.value.details
    assert provider.state(machine) == Condition(state=State.STOPPED)


def test_a_layer_the_guest_does_not_find_is_named(machine: Record, image: Image) -> None:
    ghost = QemuProvider(kernel_options=("mlvm.layers=system,modules,python,agent,ghost",))

    with pytest.raises(MachineError, match="ghost"):
        ghost.start(machine, image, observer=SILENT)


def test_a_guest_that_never_answers_is_given_up_in_its_stage(machine: Record, image: Image) -> None:
    limits = {which: {**ready.LIMITS[which], "init": 12.0} for which in Accelerator}
    silent = QemuProvider(kernel_options=("systemd.mask=mlvm-agent.service",), limits=limits)

    with pytest.raises(StageTimeout) as caught:
        silent.start(machine, image, observer=SILENT)
    assert str(caught.value) == f"machine `{NAME}` did not get through stage `init` in 12 s"
    assert len(caught.value.details.splitlines()) > 5
    assert silent.state(machine) == Condition(state=State.STOPPED)


class Limits(dict[str, float]):
    """Limits of which the guest kernel's can be none at all."""

    patient = True

    def __getitem__(self, stage: str) -> float:
        return super().__getitem__(stage) if self.patient or stage != "guest kernel" else 0.0


@pytest.mark.parametrize("hangs", [1, 2])
def test_a_guest_kernel_that_stands_still_is_started_once_more(
    machine: Record, image: Image, monkeypatch: pytest.MonkeyPatch, hangs: int
) -> None:
    spawn, boots = launching.spawn, iter(range(2))

    def spawned(launch: Launch) -> run_record.Run:
        monkeypatch.setattr(Limits, "patient", next(boots) >= hangs)
        return spawn(launch)

    monkeypatch.setattr(launching, "spawn", spawned)
    provider = QemuProvider(limits={which: Limits(ready.LIMITS[which]) for which in Accelerator})
    tape = Tape()

    if hangs == 1:
        provider.start(machine, image, observer=tape)
        assert provider.guest(machine).run(["true"]).code == 0
        provider.stop(machine, observer=SILENT)
    else:
        with pytest.raises(StageTimeout, match="did not get through stage `guest kernel`"):
            provider.start(machine, image, observer=tape)

    assert provider.state(machine) == Condition(state=State.STOPPED)
    assert [note.rpartition("; ")[2] for note in tape.notes] == ["once more"]


def test_a_record_from_before_the_hosts_reboot_is_no_obstacle(
    machine: Record, image: Image, provider: QemuProvider
) -> None:
    """The process id it names is alive and somebody else's: ours."""
    stale = run_record.Run(
        pid=os.getpid(),
        started=run_record.start_time(os.getpid()) or 0,
        boot_id="before",
        qemu_version="7.2.22",
        accelerator="tcg",
        command="",
        ready=True,
    )
    run_record.save(machine, stale)
    found = provider.state(machine)
    tape = Tape()
    provider.start(machine, image, observer=tape)

    assert found == Condition(state=State.STOPPED, reasons=("the host has been restarted while it ran",))
    assert tape.notes == [f"machine `{NAME}`: the host has been restarted while it ran"]
    assert provider.state(machine) == Condition(state=State.RUNNING)


def test_a_guest_kernel_panic_is_the_reason(
    guest: AgentGuest, machine: Record, provider: QemuProvider
) -> None:
    with pytest.raises(GuestError, match="the machine went away"):
        guest.run(
            ["sh", "-c", "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"],
            user="root",
            timeout=60,
        )

    assert eventually(lambda: provider.state(machine).state is State.STOPPED)
    assert provider.state(machine).reasons == ("its guest kernel panicked: sysrq triggered crash",)


def eventually(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def page(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/page")
        return connection.getresponse().read()
    except (http.client.HTTPException, ConnectionResetError):
        return b""
    finally:
        connection.close()


def listening(machine: Record) -> set[str]:
    """Return the addresses the machine's process listens at, as `ss` sees them."""
    pid = json.loads((machine.folder / "run.json").read_text())["pid"]
    lines = subprocess.run(["ss", "-Hltunp"], capture_output=True, check=True, text=True).stdout.splitlines()
    ours = [line.split() for line in lines if f"pid={pid}," in line]
    assert ours
    return {fields[4].rsplit(":", 1)[0] for fields in ours if fields[0] == "tcp" or fields[1] == "LISTEN"}


def listens(guest: AgentGuest, port: int) -> bool:
    return f":{port} " in guest.run(["ss", "-ltn"]).stdout.decode()
