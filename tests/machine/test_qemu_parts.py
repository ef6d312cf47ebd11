"""The provider's parts that need no QEMU: parsing, looking, waiting, keys, the smallest guest."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlvm.errors import MachineError, ProgramError, StageTimeout
from mlvm.events import Observer
from mlvm.machine import record as records
from mlvm.machine.provider import Condition, State
from mlvm.machine.qemu import accelerator, forward, host, keys, probe_guest, ready, run_record, saved, state
from mlvm.machine.qemu.accelerator import Verdict
from mlvm.machine.qemu.host import Accelerator
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import Record
from mlvm.machine.session import Session
from mlvm.paths import Home

from .test_argv import HOST, IMAGE, RECORD

BOOT = "this-boot"


@pytest.fixture
def machine(home: Home) -> Record:
    """A stopped machine's folder."""
    record = replace(RECORD, home=home)
    record.folder.mkdir(parents=True)
    records.save(record)
    (record.folder / "overlay.img").touch()
    return record


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def run_of(pid: int, **facts: object) -> Run:
    started = run_record.start_time(pid) or 0
    run = Run(
        pid=pid,
        started=started,
        boot_id=BOOT,
        qemu_version="7.2.22",
        accelerator="tcg",
        command="c",
        ready=True,
    )
    return replace(run, **facts)


# --- host
# --------------------------------------------------------------------------------------------------------


def test_version_of_debians_qemu() -> None:
    assert (
        host.parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright")
        == "7.2.22"
    )


def test_a_program_that_is_no_qemu() -> None:
    with pytest.raises(ProgramError, match="QEMU does not say its version"):
        host.parse_version("GNU coreutils")


# --- looking
# -----------------------------------------------------------------------------------------------------


def test_no_folder_is_absent(home: Home) -> None:
    assert state.look(replace(RECORD, home=home), BOOT) == Condition(state=State.ABSENT)


def test_no_run_is_stopped(machine: Record) -> None:
    assert state.look(machine, BOOT) == Condition(state=State.STOPPED)


def test_a_living_ready_process_is_running(machine: Record, child: subprocess.Popen[bytes]) -> None:
    run_record.save(machine, run_of(child.pid))

    assert state.look(machine, BOOT) == Condition(state=State.RUNNING)


def test_a_living_process_whose_agent_is_silent_is_starting(
    machine: Record, child: subprocess.Popen[bytes]
) -> None:
    run_record.save(machine, run_of(child.pid, ready=False))

    assert state.look(machine, BOOT) == Condition(
        state=State.STARTING, reasons=("its agent has not answered yet",)
    )


def test_the_same_process_in_another_boot_is_another_process(
    machine: Record, child: subprocess.Popen[bytes]
) -> None:
    run_record.save(machine, run_of(child.pid, boot_id="another boot"))

    assert state.look(machine, BOOT) == Condition(
        state=State.STOPPED, reasons=("the host has been restarted while it ran",)
    )


def test_a_process_id_given_to_somebody_else(machine: Record, child: subprocess.Popen[bytes]) -> None:
    run_record.save(machine, run_of(child.pid, started=1))
    (machine.folder / "qemu.log").write_text("qemu: terminating on signal 9\n")

    assert state.look(machine, BOOT) == Condition(
        state=State.STOPPED,
        reasons=(f"its QEMU process {child.pid} ended unexpectedly", "qemu: terminating on signal 9"),
    )


def test_a_zombie_is_gone(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert run_record.start_time(child.pid) is None


def test_killing_never_hits_a_stranger(child: subprocess.Popen[bytes]) -> None:
    stale = run_of(child.pid, started=1)

    assert run_record.kill(stale, BOOT, number=signal.SIGKILL, seconds=1)
    assert child.poll() is None


def test_killing_waits_for_the_end(child: subprocess.Popen[bytes]) -> None:
    assert run_record.kill(run_of(child.pid), BOOT, number=signal.SIGKILL, seconds=5)
    assert child.wait(1) == -signal.SIGKILL


def test_a_panic_on_the_console_is_the_reason(machine: Record) -> None:
    run_record.save(machine, run_of(2**22 - 1, started=1))
    machine.console_log.write_text(
        "[    9.1] Kernel panic - not syncing: sysrq triggered crash\r\nCPU: 0\r\n"
    )

    assert state.look(machine, BOOT).reasons == ("its guest kernel panicked: sysrq triggered crash",)


def test_a_guest_that_shut_itself_down_needs_no_reason(machine: Record) -> None:
    run_record.save(machine, run_of(2**22 - 1, started=1))
    machine.console_log.write_text("[   12.3] reboot: Power down\r\n")

    assert state.look(machine, BOOT) == Condition(state=State.STOPPED)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"version": 1}', '{"version": 2}', "null", '{"version": 1, "pid": "x"}']
)
def test_a_broken_run_record_is_a_reason_not_an_error(machine: Record, text: str) -> None:
    (machine.folder / "run.json").write_text(text)
    found = state.look(machine, BOOT)

    assert found.state is State.STOPPED
    assert found.reasons[0].startswith(f"`{machine.folder}/run.json` cannot be read: ")


def test_a_machine_whose_disk_is_gone_is_broken(machine: Record) -> None:
    (machine.folder / "overlay.img").unlink()

    assert state.look(machine, BOOT) == Condition(
        state=State.BROKEN, reasons=(f"its disk `{machine.folder}/overlay.img` is gone",)
    )


def test_saved_ram_means_suspended(machine: Record) -> None:
    (machine.folder / saved.STATE).touch()

    assert state.look(machine, BOOT) == Condition(state=State.SUSPENDED)


def test_saved_ram_of_another_qemu_is_refused_with_the_way_out(machine: Record) -> None:
    (machine.folder / saved.KEY).write_text(
        json.dumps({"qemu_version": "7.2.1", "accelerator": "tcg", "command": "c"})
    )

    with pytest.raises(MachineError) as caught:
        saved.check_fits(
            machine, saved.load_key(machine), qemu_version="8.0.0", accelerator="tcg", command="c"
        )
    assert str(caught.value) == (
        "machine `box` cannot go on from where it was suspended: QEMU has changed from 7.2.1 to 8.0.0"
    )
    assert caught.value.hint == "`mlvm stop box` throws the saved state away and keeps the disk"


def test_a_run_survives_being_written(machine: Record) -> None:
    run = run_of(os.getpid(), ports={2222: 22}, ssh_port=2222)
    run_record.save(machine, run)

    assert run_record.load(machine) == run


# --- readiness
# ---------------------------------------------------------------------------------------------------


class Stages(Observer):
    def __init__(self) -> None:
        self.finished: list[str] = []
        self.begun: list[str] = []

    def stage_started(self, stage: str, detail: str = "") -> None:
        self.begun.append(stage)

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        self.finished.append(stage)


LIMITS = {"firmware": 0.2, "guest kernel": 0.2, "init": 0.2, "agent": 0.2}


def wait(path: Path, observer: Observer, *, ended: str | None = None, answer: bytes | None = None) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if answer is not None:
            threading.Thread(target=_answer, args=(theirs, answer)).start()
        elif ended is not None:
            theirs.close()
        watched = ready.Watched(name="box", console=ready.Console(path), ended=lambda: ended)
        ready.wait_ready(watched, Session(ours), observer=observer, limits=LIMITS)


def _answer(port: socket.socket, before: bytes) -> None:
    nonce = json.loads(port.recv(4096).split(b"\n")[1])["nonce"]
    port.sendall(before + b"\n" + json.dumps({"hello": nonce}).encode() + b"\n")


BANNER = "[    0.000000] Linux version 6.1.0-56-cloud-amd64 (debian)\r\n"


def test_an_answer_is_ready_whatever_came_before_it(tmp_path: Path) -> None:
    observer = Stages()

    wait(tmp_path / "none", observer, answer=b'rubbish\n{"hello": "somebody else"}\n{"out')

    assert observer.finished == ["firmware"]


def test_the_console_tells_the_stages(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(BANNER + "Welcome to \x1b[1mDebian\x1b[0m!\r\n")
    observer = Stages()

    wait(tmp_path / "log", observer, answer=b"")

    assert observer.begun == ["firmware", "guest kernel", "init"]
    assert observer.finished == observer.begun


@pytest.mark.parametrize(
    ("console", "stage", "shown"),
    [
        ("", "firmware", "the console is empty"),
        (BANNER, "guest kernel", BANNER.strip()),
        (
            BANNER + "\x1b[0;1;31mWelcome to\x1b[0m Debian\r\n\r\n",
            "init",
            BANNER.strip() + "\nWelcome to Debian",
        ),
        ("mlvm-agent: listening\r\n", "agent", "mlvm-agent: listening"),
    ],
)
def test_a_time_out_names_its_stage_and_shows_the_console(
    tmp_path: Path, console: str, stage: str, shown: str
) -> None:
    (tmp_path / "log").write_text(console, newline="")

    with pytest.raises(StageTimeout) as caught:
        wait(tmp_path / "log", Stages())

    assert str(caught.value) == f"machine `box` did not get through stage `{stage}` in 0.2 s"
    assert caught.value.details == shown
    assert caught.value.hint == ready.HINTS[stage]


def test_a_panic_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(BANNER + "Kernel panic - not syncing: VFS: Unable to mount root fs\r\n")

    with pytest.raises(MachineError, match="panicked: VFS: Unable to mount root fs"):
        wait(tmp_path / "log", Stages(), ended="")


def test_a_missing_layer_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        BANNER + "mlvm-init: layer python is missing\r\nKernel panic - not syncing: x\r\n"
    )

    with pytest.raises(MachineError, match="cannot put its disks together: layer python is missing"):
        wait(tmp_path / "log", Stages(), ended="")


def test_qemu_ending_shows_its_words(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        wait(tmp_path / "none", Stages(), ended="qemu: could not open disk\n")

    assert str(caught.value) == "QEMU ended while machine `box` was in stage `firmware`"
    assert caught.value.details == "qemu: could not open disk"


# --- forwards
# ----------------------------------------------------------------------------------------------------

USERNET = """Hub -1 (net):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   33       127.0.0.1 46725       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  31       127.0.0.1 46725       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  12       127.0.0.1  8888        10.0.2.15  8888     0     0
  UDP[236 sec]       44       10.0.2.15 51331        10.0.2.3    53     0     0
"""


def test_forwards_are_read_from_info_usernet() -> None:
    assert forward.parse_rules(USERNET) == {46725: 22, 8888: 8888}


# --- keys
# --------------------------------------------------------------------------------------------------------


def test_known_hosts_is_right_from_the_start(tmp_path: Path) -> None:
    keys.make_keys(tmp_path, "box")
    kind, blob, _ = (tmp_path / "ssh_host_ed25519_key.pub").read_text().split()

    assert (tmp_path / "known_hosts").read_text() == f"mlvm-box {kind} {blob}\n"
    assert (tmp_path / "id_ed25519").stat().st_mode & 0o777 == 0o600


def test_ssh_understands_the_config_whatever_the_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "50% of 'my' files"
    folder.mkdir()
    path = keys.write_config(folder, "box", port=2222)
    said = subprocess.run(
        ["ssh", "-G", "-F", path, "mlvm-box"], capture_output=True, check=True, text=True
    ).stdout
    settings = dict(line.split(" ", 1) for line in said.splitlines())

    assert settings["identityfile"].replace("%%", "%") == str(folder / "id_ed25519")
    assert settings["stricthostkeychecking"] == "true"
    assert (settings["hostname"], settings["port"]) == ("127.0.0.1", "2222")


def test_a_folder_that_ssh_config_cannot_say() -> None:
    with pytest.raises(MachineError, match="cannot be written in an ssh_config"):
        keys.config_text(Path('/a"b'), "box", port=1, user="mlvm")


# --- accelerator
# -------------------------------------------------------------------------------------------------


def test_without_a_device_kvm_is_not_tried(tmp_path: Path) -> None:
    assert str(accelerator.obstacle(tmp_path / "kvm")).startswith(f"this host has no {tmp_path}/kvm")


def test_a_verdict_is_kept_for_its_host_boot_qemu_and_guest_kernel(tmp_path: Path) -> None:
    path = tmp_path / "accelerator.json"
    key = accelerator.verdict_key(HOST, IMAGE.vmlinuz)
    path.write_text(json.dumps({"key": key, "accelerator": "kvm", "reason": "it works"}))

    assert accelerator.remembered(path, key) == Verdict(accelerator=Accelerator.KVM, reason="it works")
    for change in ({"boot_id": "x"}, {"qemu": "x"}, {"vmlinuz": "x"}):
        assert accelerator.remembered(path, {**key, **change}) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"key": 1}'])
def test_a_broken_verdict_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "v").write_text(text)

    assert accelerator.remembered(tmp_path / "v", {}) is None


def test_the_smallest_guest_is_a_program_this_kernel_runs(tmp_path: Path) -> None:
    """It says its line; its reboot is refused to it here, and then it spins until it is killed."""
    program = tmp_path / "init"
    program.write_bytes(probe_guest.program())
    program.chmod(0o755)
    with subprocess.Popen(
        ["setpriv", "--reuid=65534", "--clear-groups", program], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        child.kill()

    assert said == probe_guest.LINE


def test_the_smallest_guest_unpacks(tmp_path: Path) -> None:
    archive = probe_guest.initramfs()

    assert archive[:6] == b"070701"
    assert archive.count(b"070701") == 4
    assert probe_guest.program() in archive
