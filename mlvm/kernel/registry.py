"""Kernels that live, whoever started them: found in their guests, and gone on with.

The guest is the truth. It knows which kernels there are, what they do and what nobody heard; a kernel outlives the
Jupyter server that started it, and this is how another one finds it again. On the host there is only a file lock a
kernel, held by the process that uses it, so that two never do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlvm.agent import tape
from mlvm.errors import KernelError, MachineError
from mlvm.kernel.launch import LiveKernel, Place, claim
from mlvm.machine import record as records
from mlvm.machine.guest import GuestKernelProcess
from mlvm.machine.provider import State
from mlvm.machine.table import provider_for

if TYPE_CHECKING:
    from mlvm.machine.guest import Guest
    from mlvm.machine.provider import Provider
    from mlvm.machine.record import Record
    from mlvm.paths import Home


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A kernel in a running machine. Times are in seconds before now; `code` is None while it runs."""

    kernel_id: str
    machine: str
    pid: int
    code: int | None
    #: In use by a process of this host.
    used: bool
    busy: bool
    #: How long it has been busy, or idle.
    since: float
    age: float
    #: When it last said something.
    activity: float
    cells: int
    #: Bytes of output kept, and messages nobody heard.
    kept: int
    missed: int
    #: The notebook it was started for, if its frontend said so, and the kernelspec.
    session: str
    kernel_name: str

    @property
    def state(self) -> str:
        """What it does, in a word."""
        if self.code is not None:
            return f"ended ({self.code})"
        return "busy" if self.busy else "idle"


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A message a kernel said: its number, whether somebody listened then, and its parts (as Jupyter names them)."""

    number: int
    heard: bool
    #: An `execute_reply`, which came over the shell channel; everything else over iopub.
    reply: bool
    header: Mapping[str, Any]
    parent_header: Mapping[str, Any]
    metadata: Mapping[str, Any]
    content: Mapping[str, Any]
    buffers: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What is kept of a kernel's words; `lost` messages between those asked for and the first are not any more."""

    messages: tuple[Said, ...]
    lost: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Adopted:
    """A kernel gone on with: the process, its connection (keys and ports of this host), the first unheard message."""

    kernel: LiveKernel
    connection: Mapping[str, Any]
    first_missed: int


def in_machine(record: Record, guest: Guest) -> list[Known]:
    """Return the kernels of a machine, oldest first."""
    return sorted((_known(record, told) for told in guest.list_kernels()), key=lambda known: -known.age)


def everywhere(home: Home) -> list[Known]:
    """Return the kernels of all running machines; one that does not answer has none to show."""
    return [known for record, _, guest in _running(home) for known in in_machine(record, guest)]


def find(home: Home, name: str) -> tuple[Record, Provider, Guest, Known]:
    """Return the kernel that `name` means: the beginning of its id, or a machine with one that runs.

    Raises KernelError when it means none, or several.
    """
    found = [
        (record, provider, guest, known)
        for record, provider, guest in _running(home)
        for known in in_machine(record, guest)
        if known.kernel_id.startswith(name) or (record.name == name and known.code is None)
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"`{one[3].kernel_id[:8]}` in `{one[3].machine}`" for one in found)
    raise KernelError(
        f"`{name}` means several kernels: {known}" if found else f"there is no kernel `{name}`",
        hint="mlvm kernel list",
    )


def orphan(record: Record, guest: Guest, *, session: str, kernel_name: str) -> Known | None:
    """Return the kernel started for notebook `session` that lives on without a client; the newest of several."""
    for known in reversed(in_machine(record, guest)):
        same = (known.session, known.kernel_name) == (session, kernel_name)
        if same and session and known.code is None and not known.used:
            return known
    return None


def adopt(record: Record, provider: Provider, guest: Guest, kernel_id: str, *, live: bool = False) -> Adopted:
    """Go on with a kernel whose client is gone. Raises KernelError when somebody uses it.

    What nobody heard is shown by the next cell; with `live` the caller reads it himself, with `output`.
    """
    if _used(record, kernel_id):
        raise KernelError(
            f"kernel `{kernel_id[:8]}` in machine `{record.name}` is in use",
            hint="end whatever uses it, or start another one",
        )
    told = guest.adopt_kernel(kernel_id, deliver="live" if live else "cell")
    process = GuestKernelProcess(kernel_id=kernel_id, pid=told["pid"], ports=told["ports"])
    kernel = LiveKernel(record, process, provider=provider, guest=guest, ports={})
    try:
        kernel.ports = provider.forward(record, process.ports)
    except BaseException:
        kernel.close()
        raise
    connection = {**told["connection"], "ip": "127.0.0.1", "transport": "tcp", **kernel.ports}
    return Adopted(kernel=kernel, connection=connection, first_missed=int(told.get("first", 0)))


def adopt_named(home: Home, name: str) -> Adopted:
    """Go on with the kernel that `name` means to `find`. Raises KernelError."""
    record, provider, guest, known = find(home, name)
    if known.code is not None:
        raise KernelError(f"kernel `{name}` has ended", hint=f"mlvm kernel output {name}")
    return adopt(record, provider, guest, known.kernel_id)


def adopt_orphan(place: Place, *, session: str, kernel_name: str) -> Adopted | None:
    """Go on with the kernel that an earlier server started for notebook `session`; None when there is none."""
    with suppress(MachineError):
        record = records.load(place.home, place.machine)
        if (
            not session
            or record is None
            or (provider := provider_for(record)).state(record).state is not State.RUNNING
        ):
            return None
        guest = provider.guest(record)
        if known := orphan(record, guest, session=session, kernel_name=kernel_name):
            return adopt(record, provider, guest, known.kernel_id)
    return None


def take_missed(guest: Guest, kernel_id: str) -> Kept | None:
    """Return what nobody has heard of a kernel that was adopted, in order; the next cell does not show it any more.

    None while the kernel still does what its client before asked for: that cell goes on, and the next one shows all.
    """
    told = _told(guest, kernel_id)
    if told.get("busy"):
        return None
    if not told.get("first"):
        return Kept(messages=(), lost=0)
    kept = output(guest, kernel_id, after=int(told["first"]) - 1, unheard=True)
    guest.adopt_kernel(kernel_id, deliver="live")
    # What it has said since it was asked for its words: a thread, say, that goes on.
    last = kept.messages[-1].number if kept.messages else int(told["last"])
    rest = output(guest, kernel_id, after=last, unheard=True)
    return Kept(messages=(*kept.messages, *rest.messages), lost=kept.lost)


def output(guest: Guest, kernel_id: str, *, after: int = 0, unheard: bool = False) -> Kept:
    """Return what is kept of what a kernel said after message `after`, in order; only what nobody heard, if asked.

    A kernel that has ended is no hindrance while its words are kept.
    """
    for _ in range(3):  # between two reads the newer half may have become the older one
        told = _told(guest, kernel_id)
        numbered: dict[int, tape.Message] = {}
        for path in told["tapes"]:
            with suppress(MachineError):
                numbered.update((message.number, message) for message in tape.parse(guest.get(path)))
        numbers = sorted(numbered)
        if not numbers or len(numbers) == numbers[-1] - numbers[0] + 1:
            break
    wanted = [numbered[number] for number in numbers if number > after]
    last = int(told.get("last", 0))
    lost = max(0, (wanted[0].number if wanted else last + 1) - after - 1)
    said = (_said(message) for message in wanted)
    return Kept(messages=tuple(one for one in said if not (unheard and one.heard)), lost=lost)


def _running(home: Home) -> Iterator[tuple[Record, Provider, Guest]]:
    for name in records.names(home):
        with suppress(MachineError):
            record = records.load(home, name)
            if record is not None and (provider := provider_for(record)).state(record).state is State.RUNNING:
                yield record, provider, provider.guest(record)


def _known(record: Record, told: Mapping[str, Any]) -> Known:
    now = float(told["now"])
    return Known(
        kernel_id=told["kernel_id"],
        machine=record.name,
        pid=told["pid"],
        code=told["code"],
        used=_used(record, told["kernel_id"]),
        busy=bool(told.get("busy")),
        since=max(0.0, now - float(told.get("since", now))),
        age=max(0.0, now - float(told["started"])),
        activity=max(0.0, now - float(told["activity"] or now)),
        cells=int(told.get("cells", 0)),
        kept=int(told["kept"]),
        missed=int(told.get("owed", 0)),
        session=str(told["session"]),
        kernel_name=str(told["kernel_name"]),
    )


def _told(guest: Guest, kernel_id: str) -> Mapping[str, Any]:
    for told in guest.list_kernels():
        if told["kernel_id"] == kernel_id:
            return told
    raise KernelError(f"there is no kernel `{kernel_id}`", hint="mlvm kernel list")


def _used(record: Record, kernel_id: str) -> bool:
    try:
        claim(record, kernel_id).close()
    except BlockingIOError:
        return True
    return False


def _said(message: tape.Message) -> Said:
    at = message.frames.index(b"<IDS|MSG>") + 2
    header, parent, metadata, content = (json.loads(part) for part in message.frames[at : at + 4])
    return Said(
        number=message.number,
        heard=not message.flags & tape.UNHEARD,
        reply=bool(message.flags & tape.REPLY),
        header=header,
        parent_header=parent,
        metadata=metadata,
        content=content,
        buffers=tuple(message.frames[at + 4 :]),
    )
