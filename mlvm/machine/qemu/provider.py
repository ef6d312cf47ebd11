"""The qemu provider: machines as QEMU processes of the user's own, without any daemon.

Each verb holds the machine, looks, and does what is missing; so every verb may be called twice, from two
processes, and after any kill. What a verb is made of lives next door: `argv` the command line, `ready` the
waiting, `state` the looking, `saved` the suspending.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from mlvm import files, process
from mlvm.errors import GuestError, MachineError
from mlvm.events import Observer
from mlvm.image.document import Image
from mlvm.machine.provider import Condition, State
from mlvm.machine.qemu import accelerator, argv, forward, host, keys, qmp, ready, run_record, saved, state
from mlvm.machine.qemu.channel import AgentGuest
from mlvm.machine.qemu.host import Accelerator, HostProbe
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import Record
from mlvm.paths import make_private

#: Seconds a guest has to shut down before it is ended by force.
SHUTDOWN = {Accelerator.KVM: 30.0, Accelerator.TCG: 60.0}
#: Seconds QEMU has to open its monitor.
MONITOR = 15.0


class QemuProvider:
    """Runs machines with QEMU (obeys `mlvm.machine.provider.Provider`).

    `kernel_options` are more words for the guest kernel's command line, for whoever studies a boot.
    """

    name = "qemu"

    def __init__(
        self,
        *,
        kernel_options: tuple[str, ...] = (),
        limits: Mapping[Accelerator, Mapping[str, float]] = ready.LIMITS,
    ) -> None:
        self._kernel_options = kernel_options
        self._limits = limits

    def state(self, record: Record) -> Condition:
        """Look; never raises."""
        return state.look(record, host.boot_id())

    def start(self, record: Record, image: Image, *, observer: Observer) -> AgentGuest:
        """Start a stopped machine, resume a suspended one; return the guest, ready."""
        with hold(record, observer):
            found = self.state(record)
            if found.state is State.RUNNING:
                return self._guest(record)
            for reason in found.reasons:
                observer.note(f"machine `{record.name}`: {reason}")
            if found.state is State.STARTING:
                self._end(record)  # whoever started it was killed; only its QEMU is left, half-way
            elif found.state in (State.ABSENT, State.BROKEN):
                raise _cannot(record, "start", found)
            self._launch(record, image, observer, resuming=found.state is State.SUSPENDED)
            return self._guest(record)

    def guest(self, record: Record) -> AgentGuest:
        """Return the guest of a running machine. Raises MachineError when it is not running."""
        self._require_running(record, "reach the guest of")
        return self._guest(record)

    def stop(self, record: Record, *, observer: Observer) -> None:
        """Shut the guest down cleanly, and by force after a deadline; forget a saved state."""
        with hold(record, observer):
            run = self._living(record)
            if run is not None and run.ready:
                self._shut_down(record, run, observer)
            self._end(record)
            saved.forget(record)

    def suspend(self, record: Record, *, observer: Observer) -> None:
        """Save RAM and devices to disk and end the process; the next `start` goes on from there."""
        with hold(record, observer):
            if self.state(record).state is State.SUSPENDED:
                return
            run = self._require_running(record, "suspend")
            with qmp.connect(_monitor_socket(record)) as monitor:
                run = replace(run, ports=forward.rules(monitor))
                saved.save(record, run, monitor)
            self._end(record)

    def destroy(self, record: Record, *, observer: Observer) -> None:
        """Stop by force and remove everything of the machine."""
        with hold(record, observer):
            self._end(record)
            files.remove_tree(record.folder)
            files.remove_tree(record.home.sockets(record.name))

    def forward(
        self, record: Record, guest_ports: Mapping[str, int], *, host_ports: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Make TCP ports of the guest reachable on 127.0.0.1; return name -> host port."""
        wanted = host_ports or {}
        self._require_running(record, "forward ports of")
        with qmp.connect(_monitor_socket(record)) as monitor:
            return {
                name: forward.add(monitor, port, wanted.get(name, 0)) for name, port in guest_ports.items()
            }

    def unforward(self, record: Record, host_ports: Mapping[str, int]) -> None:
        """Undo `forward`; ports (and machines) that are gone already are no error."""
        if self._living(record) is None:
            return
        with qmp.connect(_monitor_socket(record)) as monitor:
            for port in host_ports.values():
                forward.remove(monitor, port)

    def ssh_command(self, record: Record) -> list[str]:
        """Return the ssh command line, host key checked, that opens a shell in the guest.

        sshd is started when the machine is, and not waited for until somebody asks for it: here.
        """
        guest = self.guest(record)
        begun = guest.run(["systemctl", "start", "ssh.service"], user="root", timeout=90)
        if begun.code != 0:
            raise GuestError(
                "the guest's sshd does not start", details=begun.stderr.decode(errors="replace").strip()
            )
        return ["ssh", "-F", str(record.folder / keys.CONFIG), keys.alias(record.name)]

    # ------------------------------------------------------------------------------------------------ how it
    # is done

    def _launch(self, record: Record, image: Image, observer: Observer, *, resuming: bool) -> None:
        """Start QEMU and wait for the guest; whatever goes wrong, nothing of it stays."""
        probe = host.probe_host()
        verdict = accelerator.choose(record.home, probe, image.vmlinuz, observer=observer)
        launch = argv.Launch(
            record=record,
            image=image,
            host=probe,
            accelerator=verdict.accelerator,
            incoming=resuming,
            kernel_options=self._kernel_options,
        )
        key = _digest(argv.command_line(replace(launch, incoming=False)))
        kept = saved.load_key(record) if resuming else {}
        if resuming:
            accel = verdict.accelerator.value
            saved.check_fits(record, kept, qemu_version=probe.qemu_version, accelerator=accel, command=key)
        make_private(record.home.runtime)
        make_private(record.home.sockets(record.name))
        try:
            run = self._spawn(record, probe, argv.command_line(launch), verdict.accelerator, key)
            with qmp.connect(_monitor_socket(record)) as monitor:
                run = replace(run, ssh_port=_forward_all(record, monitor, kept))
                if resuming:
                    saved.restore(record, monitor)
            self._wait_ready(record, run, observer, resuming=resuming)
            self._introduce(record, run, resuming=resuming)
            run_record.save(record, replace(run, ready=True))
        except BaseException:
            self._end(record)
            raise

    def _spawn(
        self, record: Record, probe: HostProbe, command: list[str], accel: Accelerator, key: str
    ) -> Run:
        """Start the process, leave a note of it, and wait for its monitor."""
        log = record.folder / state.QEMU_LOG
        for old in (log, record.console_log):
            old.unlink(missing_ok=True)
        child = process.start_detached(command, log_file=log)
        started = run_record.start_time(child.pid)
        # Reaps it if it ends before we do; nothing waits for this thread.
        threading.Thread(target=child.wait, name=f"qemu {child.pid}", daemon=True).start()
        run = Run(
            pid=child.pid,
            started=started or 0,
            boot_id=probe.boot_id,
            qemu_version=probe.qemu_version,
            accelerator=accel.value,
            command=key,
        )
        run_record.save(record, run)
        deadline = time.monotonic() + MONITOR
        while not _monitor_answers(record):
            gone = not run_record.alive(run, probe.boot_id)
            if gone or time.monotonic() > deadline:
                raise MachineError(
                    f"QEMU {'ended at once' if gone else 'does not open its monitor'}",
                    details=state.tail(log).strip() or "it said nothing",
                    hint="`mlvm doctor` checks what machines need of this host",
                )
            time.sleep(0.01)
        return run

    def _wait_ready(self, record: Record, run: Run, observer: Observer, *, resuming: bool) -> None:
        """Wait for the agent's greeting."""

        def ended() -> str | None:
            if run_record.alive(run, run.boot_id):
                return None
            return state.tail(record.folder / state.QEMU_LOG)

        watched = ready.Watched(name=record.name, console=ready.Console(record.console_log), ended=ended)
        with self._guest(record).channel.connect() as session:
            limits = self._limits[Accelerator(run.accelerator)]
            first = "agent" if resuming else "firmware"
            ready.wait_ready(watched, session, observer=observer, limits=limits, first=first)

    def _introduce(self, record: Record, run: Run, *, resuming: bool) -> None:
        """Tell the guest which machine it is, and what time."""
        guest = self._guest(record)
        keys.write_config(record.folder, record.name, port=run.ssh_port)
        if resuming:
            guest.set_clock()
            return
        guest.configure(
            hostname=record.name,
            time=time.time(),
            machine_id=_machine_id(record),
            ssh_host_key=(record.folder / keys.HOST_KEY).read_text(),
            authorized_key=(record.folder / f"{keys.USER_KEY}.pub").read_text(),
        )

    def _shut_down(self, record: Record, run: Run, observer: Observer) -> None:
        """Ask the guest, or else its power button, to shut down, and wait."""
        try:
            self._guest(record).power_off()
        except GuestError as silent:
            observer.note(f"the guest does not answer ({silent}); its power button is pressed")
            with suppress(MachineError), qmp.connect(_monitor_socket(record)) as monitor:
                monitor.execute("system_powerdown")
        if not run_record.wait_end(run, run.boot_id, seconds=SHUTDOWN[Accelerator(run.accelerator)]):
            observer.note(f"machine `{record.name}` did not shut down in time, and is ended by force")

    def _end(self, record: Record) -> None:
        """End the QEMU process, if there is one, by force, and forget it."""
        run = self._living(record)
        if run is not None and not run_record.kill(run, run.boot_id, number=signal.SIGTERM, seconds=10):
            run_record.kill(run, run.boot_id, number=signal.SIGKILL, seconds=10)
        if run is None and state.answers(_monitor_socket(record)):
            with suppress(MachineError), qmp.connect(_monitor_socket(record)) as monitor:
                monitor.execute("quit")
        run_record.forget(record)

    def _living(self, record: Record) -> Run | None:
        """Return the run whose process lives, or None."""
        try:
            run = run_record.load(record)
        except ValueError:
            return None
        return run if run is not None and run_record.alive(run, host.boot_id()) else None

    def _require_running(self, record: Record, verb: str) -> Run:
        found = self.state(record)
        run = self._living(record)
        if found.state is not State.RUNNING or run is None:
            raise _cannot(record, verb, found)
        return run

    def _guest(self, record: Record) -> AgentGuest:
        return AgentGuest(record.home.sockets(record.name), env=dict(record.env))


@contextmanager
def hold(record: Record, observer: Observer) -> Iterator[None]:
    """Keep everybody else from changing the machine; say so when somebody else keeps us waiting."""

    def waiting() -> None:
        observer.note(f"another mlvm works on machine `{record.name}`; waiting for it")

    with files.hold(record.home.machines / ".holds" / record.name, waiting=waiting):
        yield


def _forward_all(record: Record, monitor: qmp.Monitor, kept: Mapping[str, object]) -> int:
    """Forward ssh, the record's ports and, for a resumed machine, those it had; return the port of ssh."""
    was = kept.get("ports")
    before = {int(port): int(guest) for port, guest in was.items()} if isinstance(was, dict) else {}
    ssh = forward.add_like(monitor, 22, wanted=int(str(kept.get("ssh_port", 0))))
    for port in record.ports:
        forward.add(monitor, port.guest, port.host)
    for host_port, guest_port in before.items():
        if guest_port != 22 and host_port not in {port.host for port in record.ports}:
            forward.add_like(monitor, guest_port, wanted=host_port)
    return ssh


def _monitor_answers(record: Record) -> bool:
    """Tell whether QEMU has come as far as answering: it listens before it has looked at all its options."""
    path = _monitor_socket(record)
    try:
        if not state.answers(path):
            return False
        with qmp.connect(path) as monitor:
            monitor.execute("query-status")
    except MachineError:
        return False
    return True


def _machine_id(record: Record) -> str:
    """Return the machine's own /etc/machine-id, made at its first start."""
    path = record.folder / "machine-id"
    if not path.exists():
        files.write_whole(path, os.urandom(16).hex(), mode=0o600)
    return path.read_text()


def _monitor_socket(record: Record) -> Path:
    return record.home.sockets(record.name) / argv.MONITOR


def _digest(command: list[str]) -> str:
    return hashlib.sha256("\0".join(command).encode()).hexdigest()


def _cannot(record: Record, verb: str, found: Condition) -> MachineError:
    hints = {State.BROKEN: f"mlvm destroy {record.name}", State.ABSENT: "mlvm up"}
    return MachineError(
        f"cannot {verb} machine `{record.name}`: it is {found.state}",
        details="\n".join(found.reasons),
        hint=hints.get(found.state, f"mlvm up --name {record.name}"),
    )
