"""The qemu provider: machines as QEMU processes of the user's own, without any daemon.

Each verb holds the machine, looks, and does what is missing; so every verb may be called twice, from two
processes, and after any kill. What a verb is made of lives next door: `argv` the command line, `ready` the
waiting, `state` the looking, `saved` the suspending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from mlvm import files, process
from mlvm.errors import GuestError, MachineError
from mlvm.events import SILENT, Observer, stage
from mlvm.image.document import Image
from mlvm.machine import ssh_config
from mlvm.machine.channel import AgentGuest
from mlvm.machine.holding import hold
from mlvm.machine.provider import Condition, Limits, Snapshot, State, standby_allowed
from mlvm.machine.qemu import (
    forking,
    forks,
    forward,
    host,
    keys,
    launching,
    qmp,
    ready,
    run_record,
    saved,
    shares,
    sharing,
    snapshots,
    standby,
    starting,
    state,
    usage,
    warm,
)
from mlvm.machine.qemu.argv import Launch
from mlvm.machine.qemu.host import Accelerator
from mlvm.machine.qemu.run_record import Run
from mlvm.machine.qemu.starting import Starter
from mlvm.machine.record import Record
from mlvm.machine.usage import Usage

#: Seconds a guest has to shut down before it is ended by force.
SHUTDOWN = {Accelerator.KVM: 30.0, Accelerator.TCG: 60.0}


def _refuse_gpu(record: Record, what: str) -> None:
    """Raise MachineError for what needs a machine's whole state in files: what is in a GPU nobody can read."""
    if record.shape.gpu:
        raise MachineError(f"a machine with a GPU cannot be {what}", hint=f"mlvm stop {record.name}")


class QemuProvider:
    """Runs machines with QEMU (obeys `mlvm.machine.provider.Provider`).

    `kernel_options` are more words for the guest kernel's command line, for whoever studies a boot.
    """

    name = "qemu"
    shares_folders = True

    def __init__(
        self,
        *,
        warm: bool = True,
        kernel_options: tuple[str, ...] = (),
        limits: Mapping[Accelerator, Mapping[str, float]] = ready.LIMITS,
    ) -> None:
        self._starter = Starter(
            warm_starts=warm and not kernel_options, kernel_options=kernel_options, limits=limits
        )

    def state(self, record: Record) -> Condition:
        """Look; never raises."""
        return state.look(record, host.boot_id())

    def usage(self, record: Record, *, ask: bool) -> Usage | None:
        """Tell what a machine uses; never raises."""
        run = starting.living(record)
        return usage.look(record, run.pid if run else None, ask=ask and run is not None and run.ready)

    def start(self, record: Record, image: Image, *, observer: Observer) -> AgentGuest:
        """Start a stopped machine, resume a suspended one; return the guest, ready."""
        with hold(record, observer):
            found = self.state(record)
            guest = launching.guest_of(record)
            if found.state is State.RUNNING:
                sharing.attach(record, guest, observer)
                return guest
            for reason in found.reasons:
                observer.note(f"machine `{record.name}`: {reason}")
            if found.state is State.STARTING:
                starting.end(record)  # whoever started it was killed; only its QEMU is left, half-way
            elif found.state in (State.ABSENT, State.BROKEN):
                raise _cannot(record, "start", found)
            resuming = found.state is State.SUSPENDED
            self._starter.launch(record, image, observer, resuming=resuming)
            sharing.attach(record, guest, observer, resumed=resuming)
            return guest

    def has_warm(self, record: Record, image: Image) -> bool:
        """Tell whether a fresh machine like this would start warm, and from standby where that is allowed.

        One with a GPU never does, and needs none.
        """
        if record.shape.gpu or record.shape.elastic:
            return bool(record.shape.gpu)
        launch = self._starter.plan(record, image, SILENT)
        if warm.find(launch)[0] is None:
            return False
        return not standby_allowed() or standby.find(launch) is not None

    def make_warm(self, record: Record, image: Image, *, observer: Observer) -> None:
        """Make the warm state for fresh machines like this, unless it is there."""
        warm.make(self._starter.plan(record, image, observer), observer=observer)

    def make_standby(
        self, record: Record, image: Image, *, rehearse: Callable[[Record], None], observer: Observer
    ) -> bool:
        """Have a machine on standby, which the next fresh machine like this will be; return whether there is one."""

        def introduce(launch: Launch) -> None:
            found, _ = warm.find(launch)
            if found is None:
                raise MachineError(f"there is no warm state for `{record.name}`", hint="mlvm build --warm")
            self._starter.restore(launch, found, observer)

        with stage(observer, "standby", record.name):
            return standby.make(self._starter.plan(record, image, observer), introduce, rehearse)

    def guest(self, record: Record) -> AgentGuest:
        """Return the guest of a running machine. Raises MachineError when it is not running."""
        self._require_running(record, "reach the guest of")
        return launching.guest_of(record)

    def stop(self, record: Record, *, observer: Observer) -> None:
        """Shut the guest down cleanly, and by force after a deadline; forget a saved state."""
        with hold(record, observer):
            run = starting.living(record)
            if run is not None and run.ready:
                self._shut_down(record, run, observer)
            starting.end(record)
            saved.forget(record.folder)
        _tidy(record)

    def suspend(self, record: Record, *, observer: Observer) -> None:
        """Save RAM and devices to disk and end the process; the next `start` goes on from there."""
        with hold(record, observer):
            if self.state(record).state is State.SUSPENDED:
                return
            _refuse_gpu(record, "suspended")
            run = self._require_running(record, "suspend")
            guest = launching.guest_of(record)
            with suppress(GuestError):  # its kernels keep what they say until somebody is connected again
                guest.hold_kernels()
            try:
                with qmp.connect(launching.monitor_socket(record)) as monitor:
                    run = replace(run, ports=forward.rules(monitor))
                    saved.save(record.folder, run, monitor, f"cannot save machine `{record.name}`")
            except MachineError:
                with suppress(GuestError):
                    guest.hold_kernels(release=True)
                raise
            starting.end(record)
        _tidy(record)

    def limit(self, record: Record, wanted: Limits, *, observer: Observer) -> None:
        """Change the limits of a running machine, until it is stopped. Raises MachineError."""
        with hold(record, observer):
            run = self._require_running(record, "change the limits of")
            with qmp.connect(launching.monitor_socket(record)) as monitor:
                shares.change(record, run.pid, monitor, wanted)

    def snapshot(self, record: Record, name: str, *, observer: Observer) -> None:
        """Keep a running machine, RAM and disk, under a name; it goes on running."""
        with hold(record, observer):
            _refuse_gpu(record, "kept as a snapshot")
            run = self._require_running(record, "take a snapshot of")
            with qmp.connect(launching.monitor_socket(record)) as monitor:
                run = replace(run, ports=forward.rules(monitor))
                snapshots.save(record, run, monitor, name)

    def go_back(self, record: Record, image: Image, name: str, *, observer: Observer) -> AgentGuest:
        """Go back to a snapshot, whatever the machine does now; return its guest, ready."""
        with hold(record, observer):
            folder = snapshots.require(record, name)
            starting.check_fits(self._starter.plan(record, image, observer), saved.load_key(record, folder))
            starting.end(record)
            snapshots.put_back(record, name)
        return self.start(record, image, observer=observer)

    def snapshots(self, record: Record) -> list[Snapshot]:
        """Return a machine's snapshots, oldest first."""
        return snapshots.of(record)

    def forget_snapshot(self, record: Record, name: str, *, observer: Observer) -> None:
        """Remove a snapshot; the machine stays as it is."""
        with hold(record, observer):
            snapshots.delete(record, name)

    def fork(
        self, record: Record, image: Image, copies: Sequence[Record], *, observer: Observer
    ) -> list[AgentGuest]:
        """Make a running machine into more, which share its RAM and disk copy-on-write; return their guests, ready."""
        with ExitStack() as stack:
            stack.enter_context(hold(record, observer))
            for copy in copies:
                stack.enter_context(_hold_new(copy))
            run = self._require_running(record, "fork")
            process.require_program(forks.DISK_TOOL)
            launch = self._starter.plan(record, image, observer)
            forking.check_same(launch, run)
            outcome = stack.enter_context(stage(observer, "fork", record.name))
            fork = stack.enter_context(forks.making(record))
            fork = forking.take(launch, fork)
            outcome.append(f"it stood still for {fork.pause:.2f} s")
            with suppress(GuestError):
                launching.guest_of(record).set_clock()  # it stood still, too
            made = [replace(copy, forks=(fork.id, *record.forks)) for copy in copies]
            stack.enter_context(self._all_or_none(made))
            for copy in made:
                self._starter.start_fork(replace(launch, record=copy), fork, record)
            return [launching.guest_of(copy) for copy in made]

    def destroy(self, record: Record, *, observer: Observer) -> None:
        """Stop by force and remove everything of the machine."""
        with hold(record, observer):
            starting.end(record)
            files.remove_tree(record.folder)
            files.remove_tree(record.home.sockets(record.name))
        _tidy(record)

    def forward(
        self, record: Record, guest_ports: Mapping[str, int], *, host_ports: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Make TCP ports of the guest reachable on 127.0.0.1; return name -> host port."""
        self._require_running(record, "forward ports of")
        with qmp.connect(launching.monitor_socket(record)) as monitor:
            return forward.add_all(monitor, guest_ports, host_ports or {})

    def unforward(self, record: Record, host_ports: Mapping[str, int]) -> None:
        """Undo `forward`; ports (and machines) that are gone already are no error."""
        if starting.living(record) is None:
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
        return ["ssh", "-F", str(record.folder / keys.CONFIG), ssh_config.alias(record.name)]

    @contextmanager
    def _all_or_none(self, machines: Sequence[Record]) -> Iterator[None]:
        """After an error in the block, leave none of some new machines."""
        try:
            yield
        except BaseException:
            for record in machines:
                starting.end(record)
                files.remove_tree(record.folder)
                files.remove_tree(record.home.sockets(record.name))
            raise

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

    def _require_running(self, record: Record, verb: str) -> Run:
        found = self.state(record)
        run = starting.living(record)
        if found.state is not State.RUNNING or run is None:
            raise _cannot(record, verb, found)
        return run


@contextmanager
def _hold_new(record: Record) -> Iterator[None]:
    """Keep everybody else from making a machine of that name; refuse a name that somebody has, or is about to have."""
    taken = MachineError(f"there is a machine `{record.name}` already", hint="mlvm status")
    try:
        with files.hold(record.home.machines / ".holds" / record.name, wait=False):
            if record.folder.exists():
                raise taken
            yield
    except BlockingIOError:
        raise taken from None


def _tidy(record: Record) -> None:
    """A machine that came from a fork has ended: it may have been the last that needed something of that."""
    if record.forks:
        forks.tidy(record.home)


def _cannot(record: Record, verb: str, found: Condition) -> MachineError:
    hints = {State.BROKEN: f"mlvm destroy {record.name}", State.ABSENT: "mlvm up"}
    return MachineError(
        f"cannot {verb} machine `{record.name}`: it is {found.state}",
        details="\n".join(found.reasons),
        hint=hints.get(found.state, f"mlvm up --name {record.name}"),
    )
