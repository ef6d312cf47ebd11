"""What a machine of Vagrant's is doing, found by looking, without Vagrant where that can be.

Vagrant's own file names the domain and libvirt says how that is: a fraction of what starting Ruby takes. Other
hypervisors are asked through Vagrant. A machine runs once its agent has answered in this very run of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

from mlvm import files
from mlvm.errors import MlvmError
from mlvm.machine.provider import Condition, State
from mlvm.machine.record import Record
from mlvm.machine.vagrant import domain, layout

#: Vagrant's words for states, and ours; python-vagrant has made libvirt's alike.
WORDS = {
    "not_created": State.STOPPED,
    "running": State.RUNNING,
    "poweroff": State.STOPPED,
    "shutoff": State.STOPPED,
    "stopped": State.STOPPED,
    "not_running": State.STOPPED,
    "saved": State.SUSPENDED,
    "paused": State.SUSPENDED,
    "suspended": State.SUSPENDED,
    "aborted": State.STOPPED,
    "gurumeditation": State.BROKEN,
    "inaccessible": State.BROKEN,
}
#: libvirt's words; a guest that is going down still runs.
DOMAIN = {
    "running": State.RUNNING,
    "idle": State.RUNNING,
    "in shutdown": State.RUNNING,
    "paused": State.SUSPENDED,
    "pmsuspended": State.SUSPENDED,
    "shut off": State.STOPPED,
    "crashed": State.STOPPED,
}
FULL = "its disk is full on the host: make room there, then `mlvm up`, and it goes on where it was"


def look(record: Record, ask: Callable[[Record], str]) -> Condition:
    """Return the machine's state and the reasons; `ask` has Vagrant say its word for it. Never raises."""
    try:
        if not (record.folder / "machine.json").exists():
            return Condition(state=State.ABSENT)
        if layout.hypervisor(record) == "libvirt":
            return _libvirt(record)
        if not layout.id_file(record).exists():
            return Condition(state=State.STOPPED)
        word = ask(record)
        state = WORDS.get(word)
        if state is None:
            return Condition(state=State.BROKEN, reasons=(f"Vagrant says it is `{word}`",))
        return _run(record, state, vagrant_id(record))
    except (MlvmError, OSError) as failed:
        said = failed.message if isinstance(failed, MlvmError) else str(failed)
        return Condition(state=State.BROKEN, reasons=(said,))


def vagrant_id(record: Record) -> str:
    """Return what Vagrant has noted as the machine's id; empty when it has none."""
    with suppress(OSError):
        return layout.id_file(record).read_text(errors="replace").strip()
    return ""


def _libvirt(record: Record) -> Condition:
    noted = vagrant_id(record)
    if noted and not layout.UUID.fullmatch(noted):
        return Condition(
            state=State.STOPPED,
            reasons=("Vagrant's note of it is damaged, and is made anew at the next start",),
        )
    if not noted and not layout.root(record).exists():
        return Condition(state=State.STOPPED)
    found = domain.find(noted or layout.domain(record))
    if found is None:
        reasons = ("libvirt has lost it: the next start makes it anew, with a new disk",) if noted else ()
        return Condition(state=State.STOPPED, reasons=reasons)
    state = State.SUSPENDED if found.saved else DOMAIN.get(found.state, State.BROKEN)
    if state is State.SUSPENDED and not found.saved and "I/O error" in domain.why_paused(found.uuid):
        return Condition(state=State.SUSPENDED, reasons=(FULL,))
    if state is State.BROKEN:
        return Condition(state=State.BROKEN, reasons=(f"libvirt says it is `{found.state}`",))
    return _run(record, state, f"{found.uuid} {found.run}")


def _run(record: Record, state: State, run: str) -> Condition:
    """Return `state`, or that a machine which runs is not ready yet."""
    if state is State.RUNNING and noted_run(record) != run:
        return Condition(state=State.STARTING, reasons=("its agent has not answered yet",))
    return Condition(state=state)


def present_run(record: Record) -> str:
    """Return what tells this run of a machine from the others."""
    noted = vagrant_id(record)
    if layout.hypervisor(record) != "libvirt":
        return noted
    found = domain.find(noted)
    return f"{noted} {found.run}" if found else ""


def note_run(record: Record) -> None:
    """Note that the agent has answered in this run."""
    files.write_whole(layout.ready_file(record), json.dumps({"run": present_run(record)}) + "\n", mode=0o600)


def noted_run(record: Record) -> str | None:
    """Return the run whose agent has answered, None for none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(layout.ready_file(record).read_text())["run"])
    return None
