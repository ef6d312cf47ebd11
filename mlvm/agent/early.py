"""The kernel of a boot: it gets ready while the agent itself still imports.

Under emulation an ipykernel takes as long to be ready as all the rest of a boot, and a guest mostly has a second CPU.
So the agent's first act is to start one that waits for its claim (see `late_kernel`), before it imports what it needs
itself: no `subprocess` here, nor anything else that the interpreter has not brought along.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH103, PTH118, PTH120

from __future__ import annotations

import _socket
import os

from .world import World, account, environment_of, groups_of


class Child:
    """The process of a kernel: what of it `kernels` goes on with."""

    def __init__(self, pid: int, channel: int, log_id: str) -> None:
        self.pid = pid
        #: The descriptor of our end of its channel.
        self.channel = channel
        self.log_id = log_id

    def wait(self) -> int:
        """Wait for its end, and return how it ended: minus the number of the signal that killed it, or its code."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


def begin(world: World) -> Child | None:
    """Start a kernel that waits; None where that cannot be: an agent has to come up in any guest."""
    try:
        return _begin(world)
    except (LookupError, OSError):
        return None


def _begin(world: World) -> Child:
    who = account(world.user)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    log_id = os.urandom(16).hex()
    os.makedirs(world.logs, mode=0o755, exist_ok=True)
    log = os.open(world.log(log_id), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    folder = os.path.dirname(os.path.realpath(__file__))
    argv = [world.python, os.path.join(folder, "cradle.py"), str(theirs.fileno()), "wait"]
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.set_inheritable(theirs.fileno(), True)
            if os.getuid() != who.pw_uid:
                os.setgroups(groups_of(who))
                os.setgid(who.pw_gid)
                os.setuid(who.pw_uid)
            os.chdir(who.pw_dir)
            os.execve(argv[0], argv, environment_of(world, who, {}))
        finally:
            os._exit(127)  # the channel is closed by that, which says enough
    os.close(log)
    theirs.close()
    return Child(pid, ours.detach(), log_id)
