"""Kernels whose clients are gone: who they are, what they do, and how somebody else goes on with them.

What a kernel does is read from the files its `tap` writes; only who adopts or holds a kernel speaks to it.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH106, PTH108, PTH113, PTH114, PTH118, PTH123, PTH202, PTH204

from __future__ import annotations

import json
import os
import time
from contextlib import suppress

from .wire import Message

TYPE_CHECKING = False  # see `wire`
if TYPE_CHECKING:
    from .kernel import Kernel

#: As in `tap` and `tape`, which are not for this process.
STATE, TAPES = "state", ("tape", "tape.old")
#: How many ended kernels' last output is kept.
BURIED = 3
#: Seconds a kernel has to answer; seconds to get rid of what has been sent.
ANSWER, DRAIN = 10.0, 5.0


def tell(kernels: dict[str, Kernel]) -> list[Message]:
    """Say of every kernel, ended ones included while their output is kept, what it does."""
    return [
        _told(kernel_id, kernel)
        for kernel_id, kernel in kernels.items()
        if kernel.code is None or _tapes(kernel)
    ]


def adopt(kernels: dict[str, Kernel], request: Message) -> Message:
    """Give a living kernel to another client: how to reach it, and with which keys."""
    kernel = kernels.get(request["kernel_id"])
    if kernel is None or kernel.code is not None:
        raise LookupError(f"there is no kernel `{request['kernel_id']}` that runs")
    told = _told(request["kernel_id"], kernel)  # what is owed is settled by the adoption
    kernel.tell({"tap": {"adopt": request.get("deliver", "cell")}})
    kernel.hear(ANSWER)
    return {**told, "connection": kernel.about["connection"]}


def hold(kernels: dict[str, Kernel], request: Message) -> None:
    """Let kernels keep what they say (or not any more, with `release`): their connections are about to end.

    Returns when what they said before has left the guest.
    """
    word = "release" if request.get("release") else "hold"
    living = [kernel for kernel in kernels.values() if not kernel.ended.is_set()]
    for kernel in living:
        kernel.tell({"tap": {word: True}})
    deadline = time.monotonic() + ANSWER
    for kernel in living:
        kernel.hear(max(0.0, deadline - time.monotonic()))
    ports = ports_of(kernels)
    deadline = time.monotonic() + DRAIN
    while word == "hold" and _unsent(ports) and time.monotonic() < deadline:
        time.sleep(0.05)


def ports_of(kernels: dict[str, Kernel]) -> set[int]:
    """Return the ports of all kernels that have not ended, whether they listen there yet or not."""
    living = [kernel for kernel in kernels.values() if not kernel.ended.is_set()]
    return {port for kernel in living for port in _ports(kernel).values()}


def bury(kernels: dict[str, Kernel], but: int = BURIED) -> None:
    """Forget what ended kernels said, except for the last few."""
    ended = [kernel for kernel in kernels.values() if kernel.ended.is_set() and _tapes(kernel)]
    ended.sort(key=_activity)
    for kernel in ended[: max(0, len(ended) - but)]:
        for name in (*TAPES, STATE):
            with suppress(OSError):
                os.unlink(os.path.join(kernel.folder, name))
        with suppress(OSError):
            os.rmdir(kernel.folder)


def _told(kernel_id: str, kernel: Kernel) -> Message:
    env, connection = kernel.about.get("env", {}), kernel.about.get("connection", {})
    return {
        "kernel_id": kernel_id,
        "pid": kernel.pid,
        "code": kernel.code,
        "ports": _ports(kernel),
        "started": kernel.about.get("started", 0.0),
        "session": env.get("JPY_SESSION_NAME", ""),
        "kernel_name": connection.get("kernel_name", ""),
        "activity": _activity(kernel),
        "kept": sum(os.path.getsize(path) for path in _tapes(kernel)),
        "tapes": _tapes(kernel),
        "now": time.time(),
        **_state(kernel),
    }


def _ports(kernel: Kernel) -> dict[str, int]:
    connection = kernel.about.get("connection", {})
    return {name: port for name, port in connection.items() if name.endswith("_port")}


def _state(kernel: Kernel) -> Message:
    """Return what the kernel wrote of itself; nothing while it has not, or is just writing."""
    for _ in range(3):
        with suppress(OSError, ValueError):
            fd = os.open(os.path.join(kernel.folder, STATE), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb") as stream:
                state: Message = json.loads(stream.read())
                return state
    return {}


def _tapes(kernel: Kernel) -> list[str]:
    """Return the paths of what a kernel's words are kept in, the older first."""
    paths = [os.path.join(kernel.folder, name) for name in reversed(TAPES)]
    return [path for path in paths if kernel.folder and os.path.isfile(path) and not os.path.islink(path)]


def _activity(kernel: Kernel) -> float:
    """Return when a kernel last said something."""
    return max((os.path.getmtime(path) for path in _tapes(kernel)), default=0.0)


def _unsent(ports: set[int]) -> bool:
    """Tell whether something that was sent from one of `ports` has not been taken yet."""
    with open("/proc/net/tcp") as table:
        for line in list(table)[1:]:
            _, local, _, state, queues = line.split()[:5]
            if state == "01" and int(local.rpartition(":")[2], 16) in ports and int(queues[:8], 16):
                return True
    return False
