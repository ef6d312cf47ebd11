"""From a project's folder to a Jupyter kernel in its machine.

Starting a kernel may boot a machine, and never locks or builds: Jupyter has nowhere to show minutes of downloads. What
is missing is said, with the command that makes it. `start` returns when the kernel has answered through the very
ports that a frontend will use, so that a kernel that cannot start says why instead of never answering.
"""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from mlvm import files
from mlvm.errors import KernelError, MachineError, MlvmError, Outcome
from mlvm.events import SILENT, Observer, stage
from mlvm.kernel.ports import wait_for_heartbeat
from mlvm.machine.provider import State
from mlvm.paths import LOCK_NAME, SPEC_NAME, Home, shipped

if TYPE_CHECKING:
    from mlvm.image.document import Image
    from mlvm.lock.document import Lock
    from mlvm.machine.guest import Guest, GuestKernelProcess
    from mlvm.machine.provider import Provider
    from mlvm.machine.record import Record
    from mlvm.machine.unchanged import Known
    from mlvm.spec.document import Spec

log = logging.getLogger(__name__)

#: The first ipykernel that encrypts its sockets; an older one would serve in plain text, unasked.
FIRST_ENCRYPTING = Version("7.3.0")
#: The last for Python 3.9, which the agent gives its keys (`agent/older.py`).
ENCRYPTED_BY_AGENT = SpecifierSet("~=6.31")

#: Seconds a kernel process has for importing ipykernel and answering. Emulation needs 10-20 s of them.
START_DEADLINE = 180.0

#: What `poll` answers for a kernel whose machine went away under it: there is no exit code to be had.
LOST = -1

#: Ends the greeting that every ipykernel writes first; what follows it is worth showing.
GREETING = "\n    --existing "

#: In a kernel's environment: which of the kernels that wait in a forked machine it is to be; or that it is none.
CLAIM, NEW = "MLVM_CLAIM", "new"

#: So many answers in a row that the kernel is unknown, from a guest that is otherwise well, mean that it is gone.
UNKNOWN_LIMIT = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a kernel shall live: the folder of a spec and a lock, and the name of the machine.

    `cwd`, a folder of the host, is the kernel's in the guest as well, unless the spec keeps it out.
    """

    project: Path
    machine: str
    home: Home
    cwd: Path | None = None

    @property
    def up_command(self) -> str:
        """The command line that makes everything this place needs."""
        box = self.project.name if self.project.parent == shipped("boxes") else str(self.project)
        return shlex.join(["mlvm", "up", box, "--name", self.machine])


class LiveKernel:
    """A kernel process in a running machine, and the ports of ours that lead to it."""

    def __init__(
        self,
        record: Record,
        process: GuestKernelProcess,
        *,
        provider: Provider,
        guest: Guest,
        ports: Mapping[str, int],
    ) -> None:
        self.record = record
        self.process = process
        self.ports = dict(ports)
        #: Why the kernel ended, in words for a person; empty while it runs.
        self.reason = ""
        self._provider = provider
        self._guest = guest
        #: Who holds a kernel lets nobody else adopt it; ends with this process, if not before.
        self._claim = ExitStack()
        with suppress(BlockingIOError):
            self._claim = claim(record, process.kernel_id)
        self._code: int | None = None
        self._asleep = False
        self._unknown = 0

    @property
    def lost(self) -> bool:
        """Tell whether the kernel ended because its machine went away."""
        return self._code == LOST

    @property
    def asleep(self) -> bool:
        """Tell whether its machine was suspended when it was last asked for."""
        return self._asleep

    def poll(self) -> int | None:
        """Return the exit code; None while it runs, and while nothing says that it does not.

        A busy guest answers late and a suspended one not at all: neither has lost its kernel.
        """
        if self._code is None:
            try:
                code = self._guest.poll_kernel(self.process.kernel_id)
            except MachineError as error:
                self._judge(error)
            else:
                self._unknown = 0
                self._wake()
                if code is not None:
                    self._end(code, describe_end(code, self.record, self.log()))
        return self._code

    def signal(self, signum: int) -> None:
        """Send a signal to the kernel's process group; nothing happens when it, or its machine, is gone."""
        with suppress(MachineError):
            self._guest.signal_kernel(self.process.kernel_id, signum)

    def log(self) -> str:
        """Return the last lines the kernel process itself wrote; empty when the guest cannot tell."""
        try:
            return self._guest.kernel_log(self.process.kernel_id)
        except MachineError:
            return ""

    def outcome(self, request: str) -> Outcome:
        """Tell whether a cell of a kernel that ended had begun: the guest, if it is there, knows.

        That nobody heard of it proves nothing: a kernel can die before it says that it is busy.
        """
        with suppress(MachineError):
            for told in self._guest.list_kernels():
                if told["kernel_id"] == self.process.kernel_id and "begun" in told:
                    return Outcome.UNKNOWN if request in told["begun"] else Outcome.NEVER_RAN
        return Outcome.UNKNOWN

    def close(self) -> None:
        """Take back the ports; may be called twice."""
        self._claim.close()
        ports, self.ports = self.ports, {}
        if ports:
            with suppress(MachineError):
                self._provider.unforward(self.record, ports)

    def discard(self) -> None:
        """Kill the kernel and take back its ports."""
        self.signal(9)
        self.close()

    def leave_behind(self) -> bool:
        """Give up a kernel that cannot be asked to end, because its machine is suspended; return whether it is so."""
        self.poll()
        if self._asleep and self._code is None:
            self._end(LOST, f"machine `{self.record.name}` is suspended, its kernel with it")
            return True
        return False

    def _end(self, code: int, reason: str) -> None:
        self._code, self.reason = code, reason

    def _wake(self) -> None:
        """After a suspension the machine is another host process: lead the same ports to it."""
        if self._asleep:
            self._asleep = False
            self.ports = self._provider.forward(self.record, self.process.ports, host_ports=self.ports)

    def _judge(self, error: MachineError) -> None:
        """The guest did not say how the kernel is: find out what that means."""
        condition = self._provider.state(self.record)
        state = condition.state
        if state is State.SUSPENDED:
            self._asleep = True
        elif state is State.RUNNING:
            self._judge_running(error)
        elif state is not State.STARTING:
            why = "".join(f": {reason}" for reason in condition.reasons[:1])
            self._end(LOST, f"machine `{self.record.name}` is {state}{why}")

    def _judge_running(self, error: MachineError) -> None:
        try:
            self._guest = self._provider.guest(self.record)
            self._guest.ping()
        except MachineError:
            log.debug("machine %s answers late: %s", self.record.name, error)
            return
        self._unknown += 1
        if self._unknown >= UNKNOWN_LIMIT:
            self._end(LOST, f"machine `{self.record.name}` does not know the kernel any more: {error}")


def claim(record: Record, kernel_id: str) -> ExitStack:
    """Hold a kernel for this process. Raises BlockingIOError when another one does."""
    stack = ExitStack()
    stack.enter_context(files.hold(record.folder / "kernels" / f"{kernel_id}.hold", wait=False))
    return stack


def start(
    place: Place,
    connection: Mapping[str, object],
    *,
    env: Mapping[str, str],
    host_ports: Mapping[str, int] | None = None,
    claim: str = "",
    observer: Observer = SILENT,
) -> LiveKernel:
    """Start a kernel at `place` that serves `connection` (keys and scheme; ports are chosen here).

    Boots the machine when it does not run. `host_ports` are used where given: a restarted kernel keeps the ports its
    frontends are connected to. In a forked machine it may be one that waits there (see `Guest.start_kernel`). Raises
    KernelError, or what the machine raises.
    """
    record, provider, guest = open_machine(place, observer=observer)
    return start_in(
        record,
        connection,
        provider=provider,
        guest=guest,
        env=env,
        cwd=place.cwd,
        host_ports=host_ports,
        claim=claim,
        observer=observer,
    )


def start_in(
    record: Record,
    connection: Mapping[str, object],
    *,
    provider: Provider,
    guest: Guest,
    env: Mapping[str, str],
    cwd: Path | None = None,
    host_ports: Mapping[str, int] | None = None,
    claim: str = "",
    observer: Observer = SILENT,
) -> LiveKernel:
    """Start a kernel in a running machine; the rest is as for `start`."""
    with stage(observer, "kernel", f"in machine `{record.name}`"):
        process = guest.start_kernel(
            connection, env=env, cwd=_inside(record, cwd), claim=claim or env.get(CLAIM, "")
        )
        kernel = LiveKernel(record, process, provider=provider, guest=guest, ports={})
        try:
            kernel.ports = provider.forward(record, process.ports, host_ports=host_ports)
            if not process.serves:
                _wait_until_it_answers(kernel, connection)
        except BaseException:
            kernel.discard()
            raise
    return kernel


def open_machine(place: Place, *, observer: Observer) -> tuple[Record, Provider, Guest]:
    """Return the running machine of `place`, booted (from an image that is there already) when need be.

    It has the place's folder of the host, unless its spec says what it has.
    """
    # Only whoever starts a kernel pays for importing what can boot a machine.
    from mlvm.machine.create import ensure_record  # noqa: PLC0415
    from mlvm.machine.folders import want  # noqa: PLC0415
    from mlvm.machine.provider import WORKING  # noqa: PLC0415
    from mlvm.machine.table import provider_for  # noqa: PLC0415

    known, image = _machine(place)
    record = ensure_record(known.record)
    provider = provider_for(record)
    if provider.shares_folders:
        working = provider.state(record).state in WORKING
        want(record, known.share, place.cwd, working=working, kernel=place.cwd is not None, observer=observer)
    return record, provider, provider.start(record, image, observer=observer)


def _machine(place: Place) -> tuple[Known, Image]:
    """Return what the files of `place` mean for its machine, and its image, which is there."""
    from mlvm.image.store import Store  # noqa: PLC0415
    from mlvm.machine import unchanged  # noqa: PLC0415

    known = unchanged.recall(place.project, place.machine, home=place.home)
    if known is not None and (image := Store(place.home).kept_image(known.record.image_id)) is not None:
        return known, image
    from mlvm.machine.create import record_of  # noqa: PLC0415

    spec, image = built_image(place)
    record = record_of(place.home, place.machine, image=image, spec=spec, project=place.project)
    return unchanged.Known(record=record, share=spec.share), image


def reopen(
    home: Home, machine: str, process: GuestKernelProcess, *, ports: Mapping[str, int]
) -> LiveKernel | None:
    """Return a kernel that some other process started, or None when its machine does not run any more."""
    from mlvm.machine.record import load  # noqa: PLC0415
    from mlvm.machine.table import provider_for  # noqa: PLC0415

    record = load(home, machine)
    if record is None:
        return None
    provider = provider_for(record)
    try:
        guest = provider.guest(record)
    except MachineError:
        return None
    return LiveKernel(record, process, provider=provider, guest=guest, ports=ports)


def built_image(place: Place) -> tuple[Spec, Image]:
    """Return the spec and the image that its lock means; raise KernelError when it was not built here yet."""
    spec, lock = fresh_lock(place)
    check_encryption(lock)
    from mlvm.image.plan import plan  # noqa: PLC0415
    from mlvm.image.store import Store  # noqa: PLC0415

    image = Store(place.home).find_image(plan(lock).image_id)
    if image is None:
        raise KernelError(
            f"the image of `{spec.name}` is not built here yet",
            details="starting a kernel may boot a machine, but builds nothing",
            hint=place.up_command,
        )
    return spec, image


def fresh_lock(place: Place) -> tuple[Spec, Lock]:
    """Return the spec and its lock; raise KernelError when there is none or it does not fit any more."""
    from mlvm.lock.fresh import stale_reasons  # noqa: PLC0415
    from mlvm.lock.text import load as load_lock  # noqa: PLC0415
    from mlvm.spec.reader import load as load_spec  # noqa: PLC0415

    if not (place.project / SPEC_NAME).is_file():
        raise KernelError(
            f"there is no {SPEC_NAME} in `{place.project}` any more",
            hint="remove this kernel with `mlvm kernel remove NAME`, and install it from where the project is now",
        )
    spec = load_spec(place.project / SPEC_NAME)
    if not (place.project / LOCK_NAME).is_file():
        raise KernelError(f"`{place.project}` is not locked yet", hint=place.up_command)
    lock = load_lock(place.project / LOCK_NAME)
    if reasons := stale_reasons(spec, lock):
        raise KernelError(
            f"{LOCK_NAME} in `{place.project}` does not fit its spec any more",
            details="\n".join(reasons),
            hint=place.up_command,
        )
    return spec, lock


def check_encryption(lock: Lock) -> None:
    """Raise KernelError when the lock's ipykernel cannot encrypt: it would ignore the keys and serve in plain text."""
    for package in lock.python.packages:
        if canonicalize_name(package.name) == "ipykernel":
            found = package.version
            by_agent = ENCRYPTED_BY_AGENT if lock.inputs.get("python") == "3.9" else SpecifierSet("==0")
            if found is not None and found < FIRST_ENCRYPTING and found not in by_agent:
                raise KernelError(
                    f"ipykernel {package.version} of `{lock.name}` cannot encrypt its connections",
                    hint=f"add `ipykernel>={FIRST_ENCRYPTING}` to `packages` in {SPEC_NAME}, then `mlvm lock`",
                )
            return
    raise KernelError(f"there is no ipykernel in the lock of `{lock.name}`", hint="mlvm lock --upgrade")


def describe_end(code: int, record: Record, said: str) -> str:
    """Say why a kernel ended, with its last words."""
    machine = f"the kernel in machine `{record.name}`"
    if code == -9:
        memory = record.shape.memory // (1024 * 1024)
        how = f"{machine} was killed by signal 9, perhaps for want of memory: the machine has {memory} MiB"
    elif code < 0:
        how = f"{machine} was killed by signal {-code}"
    else:
        how = f"{machine} ended with code {code}"
    if GREETING in said:
        said = said.rpartition(GREETING)[2].partition("\n")[2]
    return "\n".join([how, *said.strip().splitlines()[-12:]])


def in_full(error: MlvmError) -> str:
    """Return the three parts of an error as one text, for places that show nothing but a text."""
    parts = [error.message, error.details, f"hint: {error.hint}" if error.hint else ""]
    return "\n".join(part for part in parts if part)


def _inside(record: Record, cwd: Path | None) -> str | None:
    """Return where the kernel begins: the place of its notebook's folder, if that is there."""
    from mlvm.machine.folders import place_of  # noqa: PLC0415

    return None if cwd is None else place_of(record, cwd)


def _wait_until_it_answers(kernel: LiveKernel, connection: Mapping[str, object]) -> None:
    began = time.monotonic()
    answered = wait_for_heartbeat(
        kernel.ports["hb_port"],
        connection,
        seconds=START_DEADLINE,
        keep_waiting=lambda: kernel.poll() is None,
    )
    if answered:
        return
    name = kernel.record.name
    if kernel.poll() is None:
        raise KernelError(
            f"the kernel in machine `{name}` did not answer in {time.monotonic() - began:.0f} s",
            details=kernel.log().strip(),
            hint=f"look at the machine with `mlvm ssh {name}`, or restart it: `mlvm stop {name}`",
        )
    first, _, rest = kernel.reason.partition("\n")
    raise KernelError(f"{first}, before it answered", details=rest, hint=f"mlvm console {name}")
