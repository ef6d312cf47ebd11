"""The qemu provider: machines as QEMU processes of the user's own, without any daemon.

Each verb holds the machine, looks, and does what is missing; so every verb may be called twice, from two
processes, and after any kill. What a verb is made of lives next door: `argv` the command line, `ready` the
waiting, `state` the looking, `saved` the suspending.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

from mlvm import files
from mlvm.errors import GuestError, MachineError
from mlvm.events import SILENT, Observer, stage
from mlvm.image.document import Image
from mlvm.image.overlay import make_overlay
from mlvm.machine.provider import Condition, Snapshot, State, warm_allowed
from mlvm.machine.qemu import (
    accelerator,
    argv,
    forward,
    host,
    keys,
    launching,
    qmp,
    ready,
    run_record,
    saved,
    snapshots,
    state,
    warm,
)
from mlvm.machine.qemu.argv import Launch
from mlvm.machine.qemu.channel import AgentGuest
from mlvm.machine.qemu.host import Accelerator
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import Record

#: Seconds a guest has to shut down before it is ended by force.
SHUTDOWN = {Accelerator.KVM: 30.0, Accelerator.TCG: 60.0}


#: In the mark of a fresh machine: its disk is a warm state's, so it must not boot from it.
TAKEN = "taken"


class _NoGoodError(MachineError):
    """A warm state did not come up."""


class QemuProvider:
    """Runs machines with QEMU (obeys `mlvm.machine.provider.Provider`).

    `kernel_options` are more words for the guest kernel's command line, for whoever studies a boot.
    """

    name = "qemu"

    def __init__(
        self,
        *,
        warm: bool = True,
        kernel_options: tuple[str, ...] = (),
        limits: Mapping[Accelerator, Mapping[str, float]] = ready.LIMITS,
    ) -> None:
        self._warm = warm and not kernel_options
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
                return launching.guest_of(record)
            for reason in found.reasons:
                observer.note(f"machine `{record.name}`: {reason}")
            if found.state is State.STARTING:
                self._end(record)  # whoever started it was killed; only its QEMU is left, half-way
            elif found.state in (State.ABSENT, State.BROKEN):
                raise _cannot(record, "start", found)
            self._launch(record, image, observer, resuming=found.state is State.SUSPENDED)
            return launching.guest_of(record)

    def has_warm(self, record: Record, image: Image) -> bool:
        """Tell whether a fresh machine like this would start warm."""
        return warm.find(self._plan(record, image, SILENT))[0] is not None

    def make_warm(self, record: Record, image: Image, *, observer: Observer) -> None:
        """Make the warm state for fresh machines like this, unless it is there."""
        warm.make(self._plan(record, image, observer), observer=observer)

    def guest(self, record: Record) -> AgentGuest:
        """Return the guest of a running machine. Raises MachineError when it is not running."""
        self._require_running(record, "reach the guest of")
        return launching.guest_of(record)

    def stop(self, record: Record, *, observer: Observer) -> None:
        """Shut the guest down cleanly, and by force after a deadline; forget a saved state."""
        with hold(record, observer):
            run = self._living(record)
            if run is not None and run.ready:
                self._shut_down(record, run, observer)
            self._end(record)
            saved.forget(record.folder)

    def suspend(self, record: Record, *, observer: Observer) -> None:
        """Save RAM and devices to disk and end the process; the next `start` goes on from there."""
        with hold(record, observer):
            if self.state(record).state is State.SUSPENDED:
                return
            run = self._require_running(record, "suspend")
            with qmp.connect(launching.monitor_socket(record)) as monitor:
                run = replace(run, ports=forward.rules(monitor))
                saved.save(record.folder, run, monitor, f"cannot save machine `{record.name}`")
            self._end(record)

    def snapshot(self, record: Record, name: str, *, observer: Observer) -> None:
        """Keep a running machine, RAM and disk, under a name; it goes on running."""
        with hold(record, observer):
            run = self._require_running(record, "take a snapshot of")
            with qmp.connect(launching.monitor_socket(record)) as monitor:
                run = replace(run, ports=forward.rules(monitor))
                snapshots.save(record, run, monitor, name)

    def go_back(self, record: Record, image: Image, name: str, *, observer: Observer) -> AgentGuest:
        """Go back to a snapshot, whatever the machine does now; return its guest, ready."""
        with hold(record, observer):
            folder = snapshots.require(record, name)
            _check_fits(self._plan(record, image, observer), saved.load_key(record, folder))
            self._end(record)
            snapshots.put_back(record, name)
        return self.start(record, image, observer=observer)

    def snapshots(self, record: Record) -> list[Snapshot]:
        """Return a machine's snapshots, oldest first."""
        return snapshots.of(record)

    def forget_snapshot(self, record: Record, name: str, *, observer: Observer) -> None:
        """Remove a snapshot; the machine stays as it is."""
        with hold(record, observer):
            snapshots.delete(record, name)

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
        with qmp.connect(launching.monitor_socket(record)) as monitor:
            return {
                name: forward.add(monitor, port, wanted.get(name, 0)) for name, port in guest_ports.items()
            }

    def unforward(self, record: Record, host_ports: Mapping[str, int]) -> None:
        """Undo `forward`; ports (and machines) that are gone already are no error."""
        if self._living(record) is None:
            return
        with qmp.connect(launching.monitor_socket(record)) as monitor:
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
        """Start QEMU and wait for the guest: from its own saved RAM, a warm state or cold."""
        launch = self._plan(record, image, observer)
        if resuming:
            self._resume(launch, observer)
            return
        try:
            if self._start_warm(launch, observer):
                return
        except _NoGoodError as failed:
            observer.note(f"cold start: the warm state is no good, and is thrown away ({failed.message})")
        self._boot(launch, observer)

    def _plan(self, record: Record, image: Image, observer: Observer) -> Launch:
        """Return what a start of the machine would be on this host."""
        probe = host.probe_host()
        verdict = accelerator.choose(record.home, probe, image.vmlinuz, observer=observer)
        return Launch(
            record=record,
            image=image,
            host=probe,
            accelerator=verdict.accelerator,
            kernel_options=self._kernel_options,
        )

    def _resume(self, launch: Launch, observer: Observer) -> None:
        """Go on from where the machine was suspended."""
        record = launch.record
        kept = saved.load_key(record)
        _check_fits(launch, kept)
        with self._started(replace(launch, incoming=True), kept) as (run, monitor):
            saved.restore(record, monitor)
            self._wait_ready(record, run, observer, first="agent")
            keys.write_config(record.folder, record.name, port=run.ssh_port)
            launching.guest_of(record).renew(time=time.time())

    def _start_warm(self, launch: Launch, observer: Observer) -> bool:
        """Go on from the warm state that fits a fresh machine; return whether that was possible."""
        record = launch.record
        if not (self._warm and warm_allowed()) or not (record.folder / argv.FRESH).exists():
            return False
        found, why = warm.find(launch)
        if found is None:
            observer.note(f"cold start, without a warm state: {why}")
            return False
        with stage(observer, "warm", record.name) as outcome:
            warm.take_disk(found, record.folder / argv.OVERLAY)
            (record.folder / argv.FRESH).write_text(TAKEN)
            with self._started(replace(launch, incoming=True, ram=found.ram), {}) as (run, monitor):
                (record.folder / argv.FRESH).unlink()
                try:
                    warm.restore(found, monitor, record)
                    self._wait_ready(record, run, SILENT, first="agent", limits=warm.LIMITS)
                    self._introduce(record, run, launching.guest_of(record).renew)
                except (MachineError, GuestError) as failed:
                    warm.discard(found)
                    (record.folder / argv.FRESH).write_text(TAKEN)
                    raise _NoGoodError(failed.message) from failed
            outcome.append("its kernel waits")
        return True

    def _boot(self, launch: Launch, observer: Observer) -> None:
        """Boot from nothing."""
        record = launch.record
        fresh, overlay = record.folder / argv.FRESH, record.folder / argv.OVERLAY
        if fresh.exists():
            if fresh.read_text() == TAKEN:
                overlay.unlink(missing_ok=True)
                make_overlay(overlay, size=record.shape.disk, tools=launch.image.tools)
            fresh.unlink()
        with self._started(launch, {}) as (run, _):
            self._wait_ready(record, run, observer, first="firmware")
            self._introduce(record, run, launching.guest_of(record).configure)

    @contextmanager
    def _started(self, launch: Launch, kept: Mapping[str, object]) -> Iterator[tuple[Run, qmp.Monitor]]:
        """Start QEMU for the block; at its end the machine is ready, and after an error nothing of it stays."""
        record = launch.record
        try:
            run = launching.spawn(launch)
            with qmp.connect(launching.monitor_socket(record)) as monitor:
                run = replace(run, ssh_port=_forward_all(record, monitor, kept))
                yield run, monitor
            run_record.save(record, replace(run, ready=True))
        except BaseException:
            self._end(record)
            raise

    def _wait_ready(
        self,
        record: Record,
        run: Run,
        observer: Observer,
        *,
        first: str,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        limits = limits or self._limits[Accelerator(run.accelerator)]
        launching.wait_ready(record, run, observer, limits=limits, first=first)

    def _introduce(self, record: Record, run: Run, tell: Callable[..., object]) -> None:
        """Tell the guest which machine it is, and what time."""
        keys.write_config(record.folder, record.name, port=run.ssh_port)
        tell(
            hostname=record.name,
            time=time.time(),
            mac=record.mac,
            machine_id=_machine_id(record),
            ssh_host_key=(record.folder / keys.HOST_KEY).read_text(),
            authorized_key=(record.folder / f"{keys.USER_KEY}.pub").read_text(),
        )

    def _shut_down(self, record: Record, run: Run, observer: Observer) -> None:
        """Ask the guest, or else its power button, to shut down, and wait."""
        try:
            launching.guest_of(record).power_off()
        except GuestError as silent:
            observer.note(f"the guest does not answer ({silent}); its power button is pressed")
            with suppress(MachineError), qmp.connect(launching.monitor_socket(record)) as monitor:
                monitor.execute("system_powerdown")
        if not run_record.wait_end(run, run.boot_id, seconds=SHUTDOWN[Accelerator(run.accelerator)]):
            observer.note(f"machine `{record.name}` did not shut down in time, and is ended by force")

    def _end(self, record: Record) -> None:
        """End the QEMU process, if there is one, by force, and forget it."""
        run = self._living(record)
        if run is not None and not run_record.kill(run, run.boot_id, number=signal.SIGTERM, seconds=10):
            run_record.kill(run, run.boot_id, number=signal.SIGKILL, seconds=10)
        if run is None and state.answers(launching.monitor_socket(record)):
            with suppress(MachineError), qmp.connect(launching.monitor_socket(record)) as monitor:
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


def _check_fits(launch: Launch, kept: dict[str, object]) -> None:
    """Raise MachineError unless a saved state fits a launch."""
    saved.check_fits(
        launch.record,
        kept,
        qemu_version=launch.host.qemu_version,
        accelerator=launch.accelerator.value,
        command=launching.digest(launch),
    )


def _machine_id(record: Record) -> str:
    """Return the machine's own /etc/machine-id, made at its first start."""
    path = record.folder / "machine-id"
    if not path.exists():
        files.write_whole(path, os.urandom(16).hex(), mode=0o600)
    return path.read_text()


def _cannot(record: Record, verb: str, found: Condition) -> MachineError:
    hints = {State.BROKEN: f"mlvm destroy {record.name}", State.ABSENT: "mlvm up"}
    return MachineError(
        f"cannot {verb} machine `{record.name}`: it is {found.state}",
        details="\n".join(found.reasons),
        hint=hints.get(found.state, f"mlvm up --name {record.name}"),
    )
