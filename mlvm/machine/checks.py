"""Whether a running machine is what others wait for: a port that answers in it, a command that succeeds.

Asked from inside, through the agent: what a machine is for need not be reachable from the host.
"""

from __future__ import annotations

import time

from mlvm.errors import GuestError, StageTimeout
from mlvm.events import Observer, stage
from mlvm.machine.guest import Finished, Guest
from mlvm.spec.document import Ready

#: Seconds between two questions, and those that one may take at least, however little time is left.
PAUSE, LEAST = 1.0, 5.0
#: bash, which every Debian has, opens `/dev/tcp/...` by itself: no program has to be started for it.
CONNECT = 'exec 3<>"/dev/tcp/127.0.0.1/$0"'


def wait(name: str, guest: Guest, wanted: Ready, *, observer: Observer) -> None:
    """Wait until machine `name` is ready. Raises StageTimeout with what was said last."""
    deadline = time.monotonic() + wanted.seconds
    with stage(observer, "ready", words(wanted)):
        while True:
            said = _ask(guest, wanted, seconds=max(LEAST, deadline - time.monotonic()))
            if not said:
                return
            if time.monotonic() + PAUSE > deadline:
                raise StageTimeout(
                    f"machine `{name}` runs, and was not ready in {wanted.seconds} s: {words(wanted)}",
                    details="\n".join(said.strip().splitlines()[-5:]),
                    hint=f"look at it with `mlvm run {name} -- systemctl --failed`",
                )
            time.sleep(PAUSE)


def words(wanted: Ready) -> str:
    """Say what is waited for."""
    return f"port {wanted.port} answers" if wanted.port else f"`{wanted.command}` succeeds"


def _ask(guest: Guest, wanted: Ready, *, seconds: float) -> str:
    """Return nothing when the machine is ready, else what it says instead."""
    if wanted.port is not None:
        command = ["bash", "-c", CONNECT, str(wanted.port)]
    else:
        command = ["/bin/sh", "-c", wanted.command or "false"]
    try:
        done: Finished = guest.run(command, timeout=seconds)
    except GuestError as silent:
        return silent.message
    return (
        "" if done.code == 0 else (done.stderr or done.stdout).decode(errors="replace") or f"code {done.code}"
    )
