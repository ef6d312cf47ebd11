"""Wait until a started machine answers, and say where it hangs when it does not.

The console tells which stage the boot is in (MARKS); each stage has a deadline of its own and a hint. Only
the agent's greeting means ready: a boot that says nothing on its console and answers is as good as any.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from mlvm.errors import GuestError, MachineError, StageTimeout
from mlvm.events import Observer
from mlvm.machine.qemu.host import Accelerator
from mlvm.machine.qemu.state import PANIC
from mlvm.machine.session import Session

STAGES = ("firmware", "guest kernel", "init", "agent")

#: What the console shows when a stage begins (the first begins with the machine).
MARKS = (
    ("guest kernel", re.compile(r"Linux version \d")),
    ("init", re.compile(r"mlvm(-init)?: |systemd\[1\]: |Welcome to ")),
    ("agent", re.compile(r"mlvm-agent: listening")),
)

#: Seconds a stage may take. An idle host needs a tenth of it; a busy one under emulation may need half.
LIMITS: Mapping[Accelerator, Mapping[str, float]] = MappingProxyType(
    {
        Accelerator.KVM: MappingProxyType({"firmware": 15, "guest kernel": 30, "init": 60, "agent": 30}),
        Accelerator.TCG: MappingProxyType({"firmware": 30, "guest kernel": 90, "init": 180, "agent": 60}),
    }
)

HINTS: Mapping[str, str] = MappingProxyType(
    {
        "firmware": "`mlvm doctor` tells whether the accelerator works here",
        "guest kernel": "`mlvm doctor` tells whether the accelerator works here",
        "init": "`mlvm console` shows what the guest waits for",
        "agent": "`mlvm verify` tells whether the image is whole",
    }
)

#: What the initramfs says when it cannot go on.
LOST_LAYER = re.compile(
    r"mlvm(?:-init)?: ([^\r\n]*(?:missing|not found|cannot|does not|no device)[^\r\n]*)", re.IGNORECASE
)
#: Colours, cursor movements and other terminal talk.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][A-Z0-9]|[=>78cDEHM])|[\x00-\x08\x0b-\x1f\x7f]")
LINES_SHOWN = 15


class Console:
    """The console's log, read as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self.text = ""

    def more(self) -> str:
        """Return what has been added since the last call."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return ""
        self._offset += len(data)
        new = plain(data.decode(errors="replace"))
        self.text = (self.text + new)[-65536:]
        return new

    def last_lines(self, count: int = LINES_SHOWN) -> str:
        """Return the last lines that say something."""
        return "\n".join([line for line in self.text.splitlines() if line.strip()][-count:])


def plain(text: str) -> str:
    """Return console text without what only a terminal understands."""
    return _ESCAPES.sub("", text)


class GuestKernelSilent(StageTimeout):
    """The guest kernel did not come as far as the initramfs: nothing has been written to any disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """A machine that has just been started: its console, and QEMU's last words (None while it runs)."""

    name: str
    console: Console
    ended: Callable[[], str | None]


def wait_ready(
    machine: Watched,
    session: Session,
    *,
    observer: Observer,
    limits: Mapping[str, float],
    first: str = "firmware",
) -> None:
    """Wait for the agent's greeting on `session`, stage by stage from `first`.

    Raises StageTimeout naming the stage, or MachineError when the guest kernel panicked or QEMU ended.
    """
    progress = _Progress(observer, first)
    nonce = ""
    while True:
        if new := machine.console.more():
            observer.console(new)
            progress.see(machine.console.text)
        try:
            nonce = nonce or session.hello()
            session.fill(0.05)
        except GuestError:
            _check_end(machine, progress.stage)
            time.sleep(0.01)
        if session.take_greeting(nonce):
            progress.finish()
            return
        if progress.seconds > limits[progress.stage]:
            _check_panic(machine)
            error = GuestKernelSilent if progress.stage == "guest kernel" else StageTimeout
            raise error(
                f"machine `{machine.name}` did not get through stage `{progress.stage}` "
                f"in {limits[progress.stage]:g} s",
                details=machine.console.last_lines() or "the console is empty",
                hint=HINTS[progress.stage],
            )


class _Progress:
    """Which stage the boot is in, told to an observer."""

    def __init__(self, observer: Observer, first: str) -> None:
        self._observer = observer
        self._enter(first)

    def _enter(self, stage: str) -> None:
        self.stage = stage
        self._began = time.monotonic()
        self._observer.stage_started(stage)

    @property
    def seconds(self) -> float:
        """How long the present stage has taken."""
        return time.monotonic() - self._began

    def see(self, console: str) -> None:
        """Go on to the last stage the console shows the beginning of."""
        reached = [stage for stage, mark in MARKS if mark.search(console)]
        for stage in STAGES[STAGES.index(self.stage) + 1 :]:
            if reached and STAGES.index(stage) <= STAGES.index(reached[-1]):
                self._observer.stage_finished(self.stage, self.seconds)
                self._enter(stage)

    def finish(self) -> None:
        """End the present stage; the guest is ready."""
        self._observer.stage_finished(self.stage, self.seconds)


def _check_end(machine: Watched, stage: str) -> None:
    """Raise MachineError with the reason if QEMU has ended."""
    said = machine.ended()
    if said is None:
        return
    machine.console.more()
    _check_panic(machine)
    lines = machine.console.last_lines()
    raise MachineError(
        f"QEMU ended while machine `{machine.name}` was in stage `{stage}`",
        details="\n".join(part for part in (said.strip(), lines) if part),
        hint="`mlvm doctor` checks what machines need of this host",
    )


def _check_panic(machine: Watched) -> None:
    """Raise MachineError if the console shows that the guest cannot go on."""
    text = machine.console.text
    if lost := LOST_LAYER.search(text):
        raise MachineError(
            f"machine `{machine.name}` cannot put its disks together: {lost[1].strip()}",
            details=machine.console.last_lines(),
            hint="`mlvm verify` tells whether the image is whole",
        )
    if panic := PANIC.search(text):
        raise MachineError(
            f"the guest kernel of machine `{machine.name}` panicked: {panic[1].strip()}",
            details=machine.console.last_lines(),
            hint=f"start it again with `mlvm up`; its console is in `{machine.console.path}`",
        )
