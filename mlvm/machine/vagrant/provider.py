"""The provider `vagrant`: machines that Vagrant makes and keeps, on whatever hypervisor it knows.

Vagrant is slow to start (Ruby), so it is asked once an action (`driven`), and not at all where a file of its own and
libvirt's answer will do (`looking`). What it would stumble over is put right before (`mending`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from mlvm import files
from mlvm.errors import GuestError, MachineError, MlvmError
from mlvm.events import SILENT, Observer, stage
from mlvm.image.document import Image
from mlvm.machine import ssh_config
from mlvm.machine.channel import AgentGuest
from mlvm.machine.holding import hold
from mlvm.machine.provider import Condition, Limits, Snapshot, State
from mlvm.machine.record import Record
from mlvm.machine.usage import MEMINFO, NETWORK, PATIENCE, Usage, guest_memory, guest_network
from mlvm.machine.vagrant import domain, inside, layout, looking, mending, reasons, tunnel
from mlvm.machine.vagrant.driven import Driven

#: Seconds a guest has to shut down by itself before Vagrant is asked to see to it.
SHUTDOWN = 90.0


class VagrantProvider:
    """Runs machines with Vagrant (obeys `mlvm.machine.provider.Provider`)."""

    name = "vagrant"
    shares_folders = False

    def __init__(self, *, warm: bool = True) -> None:
        del warm  # a machine of Vagrant's boots, always

    def state(self, record: Record) -> Condition:
        """Look; never raises."""
        return looking.look(record, lambda one: Driven(one, SILENT).state_word())

    def usage(self, record: Record, *, ask: bool) -> Usage | None:
        """Tell what a machine uses; never raises."""
        if not record.folder.is_dir():
            return None
        taken = time.monotonic()
        fields: dict[str, Any] = {"disk": files.disk_used(record.folder)}
        with suppress(MlvmError, OSError, ValueError):
            if layout.hypervisor(record) == "libvirt" and (noted := looking.vagrant_id(record)):
                found = domain.find(noted)
                fields["cpu_seconds"] = found.cpu_seconds if found and found.run else None
            if ask and tunnel.alive(record):
                told = _guest_of(record).read(MEMINFO, NETWORK, seconds=PATIENCE)
                fields |= guest_memory(told[0].decode()) | guest_network(told[1].decode())
        return Usage(taken=taken, **fields)

    def start(self, record: Record, image: Image, *, observer: Observer) -> AgentGuest:
        """Start a stopped machine, resume a suspended one; return the guest, ready."""
        del image  # it went into the box
        with _hold(record, observer):
            found = self.state(record)
            if found.state is State.RUNNING:
                return self._running(record, observer)
            for reason in found.reasons:
                observer.note(f"machine `{record.name}`: {reason}")
            if found.state in (State.ABSENT, State.BROKEN):
                raise _cannot(record, "start", found)
            if not layout.vagrantfile(record).exists():
                raise MachineError(
                    f"machine `{record.name}` has no Vagrantfile yet", hint="mlvm up --provider vagrant"
                )
            with ExitStack() as beginning:

                def entered(stage: str) -> None:
                    if stage == "guest kernel":  # it runs, and is in nobody's way while it boots
                        beginning.close()

                driven = Driven(record, observer, entered=entered)
                beginning.enter_context(mending.hold_common(record, observer))
                self._prepare(record, driven, observer)
                tunnel.close(record)  # of a run before this one
                if found.state is State.SUSPENDED:
                    driven.resume()
                else:
                    self._up(record, driven)
            return self._introduce(record, driven, observer)

    def has_warm(self, record: Record, image: Image) -> bool:
        """Nothing is left to make: a machine of Vagrant's always boots."""
        del record, image
        return True

    def make_warm(self, record: Record, image: Image, *, observer: Observer) -> None:
        """Do nothing, and say so."""
        del image
        observer.note(f"`{record.name}` is run by Vagrant, and always boots")

    def make_standby(
        self, record: Record, image: Image, *, rehearse: Callable[[Record], None], observer: Observer
    ) -> bool:
        """There is no standby."""
        del image, rehearse
        self.make_warm(record, None, observer=observer)  # type: ignore[arg-type]
        return False

    def guest(self, record: Record) -> AgentGuest:
        """Return the guest of a running machine. Raises MachineError when it is not running."""
        self._require_running(record, "reach the guest of")
        tunnel.ensure(record)
        return _guest_of(record)

    def stop(self, record: Record, *, observer: Observer) -> None:
        """Shut the guest down cleanly, and by force after a deadline; forget a saved state."""
        with _hold(record, observer):
            found = self.state(record)
            if found.state in (State.RUNNING, State.STARTING, State.SUSPENDED):
                layout.ready_file(record).unlink(missing_ok=True)
                if not self._is_off(record, found.state):
                    Driven(record, observer).halt(force=found.state is State.SUSPENDED)
            tunnel.close(record)
            tunnel.forget(record)

    def suspend(self, record: Record, *, observer: Observer) -> None:
        """Save RAM and devices to disk and end the hypervisor's process; the next `start` goes on from there."""
        with _hold(record, observer):
            if self.state(record).state is State.SUSPENDED:
                return
            self._require_running(record, "suspend")
            with suppress(MachineError):  # its kernels keep what they say until somebody is connected again
                tunnel.ensure(record)
                _guest_of(record).hold_kernels()
            tunnel.close(record)
            try:
                Driven(record, observer).suspend()
            except BaseException:
                with suppress(MachineError):
                    tunnel.ensure(record)
                    _guest_of(record).hold_kernels(release=True)
                raise

    def limit(self, record: Record, wanted: Limits, *, observer: Observer) -> None:
        """Refuse: these limits are the hypervisor's, and each has its own way."""
        del wanted, observer
        raise _refused(record, "change the limits of a running machine", "change `machine` in mlvm.yaml")

    def snapshot(self, record: Record, name: str, *, observer: Observer) -> None:
        """Keep a running machine, RAM and disk, under a name; it goes on running."""
        with _hold(record, observer):
            self._require_running(record, "take a snapshot of")
            if any(one.name == name for one in self.snapshots(record)):
                raise MachineError(
                    f"machine `{record.name}` has a snapshot `{name}` already",
                    hint=f"mlvm snapshot delete {name} --machine {record.name}",
                )
            Driven(record, observer).snapshot_save(name)

    def go_back(self, record: Record, image: Image, name: str, *, observer: Observer) -> AgentGuest:
        """Go back to a snapshot, whatever the machine does now; return its guest, ready."""
        del image
        with _hold(record, observer):
            self._require_snapshot(record, name)
            driven = Driven(record, observer)
            tunnel.close(record)
            driven.snapshot_restore(name)
            return self._introduce(record, driven, observer)

    def snapshots(self, record: Record) -> list[Snapshot]:
        """Return a machine's snapshots, oldest first; how much room each takes in the disk nobody tells."""
        noted = looking.vagrant_id(record)
        if layout.hypervisor(record) != "libvirt":
            raise _refused(record, "list snapshots", f"cd {layout.root(record)} && vagrant snapshot list")
        found = domain.snapshots(noted) if noted else []
        return [
            Snapshot(name=name, made=datetime.fromtimestamp(made, UTC), size=0)
            for name, made in sorted(found, key=lambda one: one[1])
        ]

    def forget_snapshot(self, record: Record, name: str, *, observer: Observer) -> None:
        """Remove a snapshot; the machine stays as it is."""
        with _hold(record, observer):
            self._require_snapshot(record, name)
            Driven(record, observer).snapshot_delete(name)

    def fork(
        self, record: Record, image: Image, copies: Sequence[Record], *, observer: Observer
    ) -> list[AgentGuest]:
        """Refuse: Vagrant knows nothing of the kind."""
        del image, copies, observer
        raise _refused(record, "fork a machine", "mlvm up --name NAME, without --provider vagrant")

    def destroy(self, record: Record, *, observer: Observer) -> None:
        """Stop by force and remove everything of the machine."""
        with hold(record, observer):
            layout.ready_file(record).unlink(missing_ok=True)
            tunnel.close(record)
            mending.restore_keys(record)  # whoever deleted Vagrant's folder has not deleted the machine
            if layout.vagrantfile(record).exists() and (layout.root(record) / ".vagrant").exists():
                mending.adopt(record, observer)
                with mending.hold_common(record, observer):
                    Driven(record, observer).destroy()
            elif looking.vagrant_id(record):
                raise MachineError(
                    f"the Vagrantfile of machine `{record.name}` is gone, and Vagrant cannot remove it without",
                    hint="mlvm up --provider vagrant, which writes it anew",
                )
            files.remove_tree(layout.seed_folder(record))
            files.remove_tree(record.folder)
            files.remove_tree(record.home.sockets(record.name))

    def forward(
        self, record: Record, guest_ports: Mapping[str, int], *, host_ports: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Make TCP ports of the guest reachable on 127.0.0.1; return name -> host port."""
        self._require_running(record, "forward ports of")
        tunnel.ensure(record)
        return tunnel.forward(record, guest_ports, host_ports or {})

    def unforward(self, record: Record, host_ports: Mapping[str, int]) -> None:
        """Undo `forward`; ports (and machines) that are gone already are no error."""
        tunnel.unforward(record, list(host_ports.values()))

    def ssh_command(self, record: Record) -> list[str]:
        """Return the ssh command line, host key checked, that opens a shell in the guest."""
        self._require_running(record, "open a shell in")
        tunnel.ensure(record)
        return [*tunnel.command(record), ssh_config.alias(record.name)]

    def _prepare(self, record: Record, driven: Driven, observer: Observer) -> None:
        """Have Vagrant know the box and its own machine. Raises MachineError."""
        mending.restore_keys(record)
        name, digest = mending.box(record)
        if layout.box_file(record).exists():
            reasons.check_version(driven.version())
            if not layout.has_box(name, layout.hypervisor(record)):
                driven.take_box(name, digest)
            layout.box_file(record).unlink()
        mending.mend(record, driven.destroy, observer)

    def _up(self, record: Record, driven: Driven) -> None:
        try:
            driven.up(provider=layout.hypervisor(record))
        except MlvmError as failed:
            if half := mending.drop_half_box(record):
                raise MachineError(
                    "there is no room for the box where libvirt keeps disks",
                    details=f"{failed.details}\nhalf of it was copied, and removed again: {half}".strip(),
                    hint=f"make room (`virsh pool-info {domain.pool()}`), then `mlvm up --name {record.name}`",
                ) from None
            raise

    def _introduce(self, record: Record, driven: Driven, observer: Observer) -> AgentGuest:
        """Reach the guest, have the agent in it, tell it who it is and what time; lead its ports."""
        with stage(observer, "init", "ssh"):
            tunnel.write_config(record, driven.conf())
            tunnel.ensure(record)
        return self._settle(record, observer)

    def _settle(self, record: Record, observer: Observer) -> AgentGuest:
        guest = _guest_of(record)
        with stage(observer, "agent"):
            inside.bring(record)
            guest.configure(hostname=record.name, time=time.time())
        for port in record.ports:
            tunnel.forward(record, {"": port.guest}, {"": port.host})
        mending.keep_keys(record)
        looking.note_run(record)
        return guest

    def _running(self, record: Record, observer: Observer) -> AgentGuest:
        """Return the guest of a machine that runs; one that was restarted from inside has lost its agent."""
        tunnel.ensure(record)
        guest = _guest_of(record)
        try:
            guest.ping(30.0)
        except GuestError:
            return self._settle(record, observer)
        return guest

    def _is_off(self, record: Record, state: State) -> bool:
        """Have a running guest shut itself down, and libvirt forget what it saved of a suspended one.

        Returns whether that was all, which only libvirt can tell without Vagrant.
        """
        if layout.hypervisor(record) != "libvirt":
            return False
        if state is State.SUSPENDED:
            return domain.forget_saved(looking.vagrant_id(record))
        if state is not State.RUNNING:
            return False
        with suppress(MlvmError):
            tunnel.ensure(record)
            _guest_of(record).power_off()
            deadline = time.monotonic() + SHUTDOWN
            while time.monotonic() < deadline:
                found = domain.find(looking.vagrant_id(record))
                if found is None or not found.run:
                    return True
                time.sleep(0.25)
        return False

    def _require_running(self, record: Record, verb: str) -> None:
        found = self.state(record)
        if found.state is not State.RUNNING:
            raise _cannot(record, verb, found)

    def _require_snapshot(self, record: Record, name: str) -> None:
        names = [one.name for one in self.snapshots(record)]
        if name not in names:
            raise MachineError(
                f"machine `{record.name}` has no snapshot `{name}`",
                details=f"snapshots: {', '.join(names) or 'none'}",
                hint=f"mlvm snapshot list --machine {record.name}",
            )


@contextmanager
def _hold(record: Record, observer: Observer) -> Iterator[None]:
    """Keep everybody else from changing the machine, which Vagrant knows as libvirt does."""
    with hold(record, observer):
        mending.adopt(record, observer)
        yield


def _guest_of(record: Record) -> AgentGuest:
    return AgentGuest(record.home.sockets(record.name), env=dict(record.env))


def _cannot(record: Record, verb: str, found: Condition) -> MachineError:
    hints = {State.BROKEN: f"mlvm destroy {record.name}", State.ABSENT: "mlvm up --provider vagrant"}
    return MachineError(
        f"cannot {verb} machine `{record.name}`: it is {found.state}",
        details="\n".join(found.reasons),
        hint=hints.get(found.state, f"mlvm up --name {record.name}"),
    )


def _refused(record: Record, what: str, hint: str) -> MachineError:
    return MachineError(f"Vagrant, which runs machine `{record.name}`, cannot {what}", hint=hint)
