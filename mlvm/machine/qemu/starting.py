"""How a machine comes to run: from its own saved RAM, from standby, from a warm state, as a fork, or by a boot.

`provider` holds the machine and decides that it shall run; here it is done. Whatever fails on the way leaves no process
behind, and a fresh machine fresh, so that the next start begins at the beginning.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from mlvm import files
from mlvm.errors import GuestError, MachineError
from mlvm.events import SILENT, Observer, stage
from mlvm.image.document import Image
from mlvm.image.overlay import make_overlay
from mlvm.machine import record as records
from mlvm.machine.provider import standby_allowed, warm_allowed
from mlvm.machine.qemu import (
    accelerator,
    argv,
    cpu_share,
    forks,
    forward,
    host,
    keys,
    launching,
    qmp,
    run_record,
    saved,
    shares,
    sharing,
    standby,
    state,
    warm,
)
from mlvm.machine.qemu.argv import Launch
from mlvm.machine.qemu.forks import Fork
from mlvm.machine.qemu.host import Accelerator
from mlvm.machine.qemu.ready import GuestKernelSilent
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.record import Record


class NoGoodError(MachineError):
    """A warm state did not come up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Starter:
    """Starts machines, with `warm_starts` from saved states where that can be; `limits` are a boot's, by stage."""

    warm_starts: bool
    kernel_options: tuple[str, ...]
    limits: Mapping[Accelerator, Mapping[str, float]]

    def launch(self, record: Record, image: Image, observer: Observer, *, resuming: bool) -> None:
        """Start QEMU and wait for the guest: from its own saved RAM, a warm state or cold."""
        launch = self.plan(record, image, observer)
        if resuming:
            self._resume(launch, observer)
            return
        if not (record.folder / argv.FRESH).exists():
            self._boot(launch, observer)
            return
        try:
            started = self._take_standby(launch, observer) or self._start_warm(launch, observer)
        except NoGoodError as failed:
            observer.note(f"cold start: the warm state is no good, and is thrown away ({failed.message})")
            started = False
        if not started:
            keys.make_keys(record.folder, record.name)
            (record.folder / argv.OVERLAY).unlink(missing_ok=True)  # of a start that did not come so far
            make_overlay(record.folder / argv.OVERLAY, size=record.shape.disk, tools=image.tools)
            self._boot(launch, observer)
        (record.folder / argv.FRESH).unlink()

    def plan(self, record: Record, image: Image, observer: Observer) -> Launch:
        """Return what a start of the machine would be on this host."""
        probe = host.probe_host(record.home.cache)
        verdict = accelerator.choose(record.home, probe, image.vmlinuz, observer=observer)
        return Launch(
            record=record,
            image=image,
            host=probe,
            accelerator=verdict.accelerator,
            kernel_options=self.kernel_options,
            gpus=_gpus_of(record),
        )

    def _resume(self, launch: Launch, observer: Observer) -> None:
        """Go on from where the machine was suspended."""
        record = launch.record
        kept = saved.load_key(record)
        check_fits(launch, kept)
        with self._started(replace(launch, incoming=True), kept, observer) as (run, monitor):
            saved.restore(record, monitor)
            self._wait_ready(record, run, observer, first="agent")
            keys.write_config(record.folder, record.name, port=run.ssh_port)
            launching.guest_of(record).renew(time=time.time())

    def _start_warm(self, launch: Launch, observer: Observer) -> bool:
        """Go on from the warm state that fits a fresh machine; return whether that was possible."""
        record = launch.record
        if not (self.warm_starts and warm_allowed()) or launch.gpus:
            return False
        if record.shape.elastic:
            observer.note("cold start: a machine that gives memory back needs memory of its own")
            return False
        found, why = warm.find(launch)
        if found is None:
            observer.note(f"cold start, without a warm state: {why}")
            return False
        with stage(observer, "warm", record.name) as outcome:
            keys.make_keys(record.folder, record.name)
            try:
                self.restore(launch, found, observer)
            except launching.NoStartError as failed:
                warm.discard(found)
                raise NoGoodError(f"{failed.message}: {failed.details.splitlines()[-1]}") from failed
            outcome.append("its kernel waits")
        return True

    def restore(self, launch: Launch, found: warm.WarmState, observer: Observer) -> None:
        """Go on from a warm state as a machine of its own."""
        record = launch.record
        warm.take_disk(found, record.folder / argv.OVERLAY)
        with self._started(replace(launch, incoming=True, ram=found.ram), {}, observer) as (run, monitor):
            sharing.serve(record)
            try:
                warm.restore(found, monitor, record)
                self._wait_ready(record, run, SILENT, first="agent", limits=warm.LIMITS)
                _introduce(record, run, launching.guest_of(record).renew)
            except (MachineError, GuestError) as failed:
                warm.discard(found)
                raise NoGoodError(failed.message) from failed

    def _take_standby(self, launch: Launch, observer: Observer) -> bool:
        """Have a fresh machine be one that is on standby; return whether there was one."""
        if not (self.warm_starts and standby_allowed()) or launch.gpus or standby.find(launch) is None:
            return False
        with stage(observer, "warm", launch.record.name) as outcome:
            taken = standby.take(launch)
            if taken is None:
                return False
            record, run = taken.record, taken.run
            sharing.serve(record)
            folders = sharing.untold(record)
            try:
                with qmp.connect(launching.monitor_socket(record)) as monitor:
                    monitor.execute("cont")
                    # What the host has to do is done while the guest becomes itself.
                    with launching.guest_of(record).renewing(**_identity(record), **folders):
                        run = replace(run, ssh_port=_forward_all(record, monitor, {}))
                        keys.write_config(record.folder, record.name, port=run.ssh_port)
                        for note in shares.apply(record, run.pid, monitor):
                            observer.note(note)
                        cpu_share.forget(taken.was)
                sharing.note_told(record, folders)
                run_record.save(record, replace(run, ready=True))
            except (MachineError, GuestError):
                end(record)
                records.save(launch.record)
                return False
            outcome.append("from standby, its kernel waits")
        return True

    def start_fork(self, launch: Launch, fork: Fork, parent: Record) -> None:
        """Make a machine of a fork, and let it go on from there as one of its own."""
        record = launch.record
        forks.make_machine(record)
        sharing.inherit(record, parent)
        former = (parent.folder / f"{keys.USER_KEY}.pub").read_text()
        renew = partial(launching.guest_of(record).renew, fork=True, former_key=former)
        with self._started(replace(launch, incoming=True, ram=fork.ram), {}, SILENT) as (run, monitor):
            with (fork.folder / forks.DEVICES).open("rb") as stream:
                saved.receive(stream, monitor, f"cannot start machine `{record.name}`", ram=False)
            self._wait_ready(record, run, SILENT, first="agent")
            _introduce(record, run, renew)
        sharing.attach(record, launching.guest_of(record), SILENT, resumed=True)

    def _boot(self, launch: Launch, observer: Observer) -> None:
        """Boot from nothing.

        An emulated guest kernel was seen to stand still while it looked for its devices, once in some three hundred
        boots. No disk has been touched by then, so it is started once more.
        """
        try:
            self._boot_once(launch, observer)
        except GuestKernelSilent as silent:
            if launch.accelerator is not Accelerator.TCG:
                raise
            observer.note(f"{silent.message}; once more")
            self._boot_once(launch, observer)

    def _boot_once(self, launch: Launch, observer: Observer) -> None:
        record = launch.record
        with self._started(launch, {}, observer) as (run, _):
            sharing.serve(record)
            self._wait_ready(record, run, observer, first="firmware")
            _introduce(record, run, launching.guest_of(record).configure)

    @contextmanager
    def _started(
        self, launch: Launch, kept: Mapping[str, object], observer: Observer
    ) -> Iterator[tuple[Run, qmp.Monitor]]:
        """Start QEMU for the block; at its end the machine is ready, and after an error nothing of it stays."""
        record = launch.record
        try:
            run = launching.spawn(launch)
            with qmp.connect(launching.monitor_socket(record)) as monitor:
                run = replace(run, ssh_port=_forward_all(record, monitor, kept))
                for note in shares.apply(record, run.pid, monitor):
                    observer.note(note)
                yield run, monitor
            run_record.save(record, replace(run, ready=True))
        except BaseException:
            end(record)
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
        limits = limits or self.limits[Accelerator(run.accelerator)]
        launching.wait_ready(record, run, observer, limits=limits, first=first)


def _introduce(record: Record, run: Run, tell: Callable[..., object]) -> None:
    """Tell the guest which machine it is, and what time."""
    keys.write_config(record.folder, record.name, port=run.ssh_port)
    tell(**_identity(record))


def _identity(record: Record) -> dict[str, object]:
    """Return what makes a guest this machine."""
    return {
        "hostname": record.name,
        "time": time.time(),
        "mac": record.mac,
        "machine_id": _machine_id(record),
        "ssh_host_key": (record.folder / keys.HOST_KEY).read_text(),
        "authorized_key": (record.folder / f"{keys.USER_KEY}.pub").read_text(),
    }


def end(record: Record) -> None:
    """End the QEMU process, if there is one, by force, and forget it."""
    run = living(record)
    if run is not None and not run_record.kill(run, run.boot_id, number=signal.SIGTERM, seconds=10):
        run_record.kill(run, run.boot_id, number=signal.SIGKILL, seconds=10)
    if run is None and state.answers(launching.monitor_socket(record)):
        with suppress(MachineError), qmp.connect(launching.monitor_socket(record)) as monitor:
            monitor.execute("quit")
    run_record.forget(record)
    cpu_share.forget(record.folder)


def living(record: Record) -> Run | None:
    """Return the run whose process lives, or None."""
    try:
        run = run_record.load(record)
    except ValueError:
        return None
    return run if run is not None and run_record.alive(run, host.boot_id()) else None


def _gpus_of(record: Record) -> tuple[str, ...]:
    """Return what this host gives to a machine that wants GPUs; most want none, and need not look."""
    if not record.shape.gpu:
        return ()
    from mlvm.machine import gpu  # noqa: PLC0415

    return gpu.choose(record.shape.gpu, memory=record.shape.memory)


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


def check_fits(launch: Launch, kept: dict[str, object]) -> None:
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
