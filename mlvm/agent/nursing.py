"""The agent's side of a nursery (see `nursery`), and when a kernel that is ready beforehand is as good as a new one."""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH116

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading

from .kernel import PACKET, Kernel, channel_pair, receive, script
from .world import World, account, environment_of, identity_of

#: Seconds in which a nursery imports everything. Under emulation a large framework takes a minute.
IMPORTS = 600.0
#: Seconds in which a kernel is forked, and gets ready.
BIRTH = 120.0
#: Variables that a process reads when it starts: to set them later would be too late.
EARLY = (
    "PYTHON",
    "LD_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "KMP_",
    "NUMEXPR_",
    "MALLOC_",
    "CUDA_",
    "TORCH_",
    "JAX_",
    "TF_",
)


class Nursery:
    """The process that kernels are forked from, as the user whose kernels they are."""

    def __init__(self, world: World, modules: list[str], env: dict[str, str]) -> None:
        self.env = env
        #: Where it imports from, and when these folders last changed.
        self.folders: dict[str, int] = {}
        self._births = threading.Lock()
        #: Who is being born, until it has a process id.
        self._unborn: Kernel | None = None
        self._born = threading.Event()
        self._children: dict[int, Kernel] = {}
        who = account(world.user)
        self._channel, theirs = channel_pair()
        self._process = subprocess.Popen(
            [world.python, script("nursery.py"), str(theirs.fileno()), *modules],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment_of(world, who, env),
            cwd=who.pw_dir,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
            **identity_of(who),  # type: ignore[call-overload]
        )
        theirs.close()
        answer = receive(self._channel, IMPORTS)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def alive(self) -> bool:
        """Tell whether it can fork."""
        return self._process.poll() is None

    def fits(self, env: dict[str, str]) -> bool:
        """Tell whether a kernel with this environment may be a fork: what is read at a start is as it was then.

        Neither may anything have been installed or removed since: a kernel just started has what is there now.
        """
        return read_at_start(env) == read_at_start(self.env) and unchanged(self.folders)

    def fork(self, log: int) -> Kernel:
        """Fork a kernel that gets itself ready; it writes to descriptor `log`."""
        ours, theirs = channel_pair()
        with self._births, theirs:
            self._born.clear()
            kernel = self._unborn = Kernel(0, ours)
            socket.send_fds(self._channel, [b'{"fork": true}'], [theirs.fileno(), log])
            if not self._born.wait(BIRTH):
                raise OSError("the nursery forks no kernel")
        return kernel

    def imports(self, modules: list[str]) -> None:
        """Let later kernels have what a rehearsal needed."""
        self._channel.send(json.dumps({"import": modules}).encode())

    def _listen(self) -> None:
        while data := self._channel.recv(PACKET):
            message = json.loads(data)
            if "born" in message and self._unborn is not None:
                self._unborn.pid = message["born"]
                self._children[self._unborn.pid] = self._unborn  # before anybody hears of its end
                self._born.set()
            elif kernel := self._children.pop(message.get("ended"), None):
                kernel.end(message["code"])
        for kernel in self._children.values():  # nobody can tell how they end any more
            kernel.end(-signal.SIGKILL)
        self._process.wait()


def unchanged(folders: dict[str, int]) -> bool:
    """Tell whether nothing was added to folders or removed since these times, in nanoseconds."""
    try:
        return all(os.stat(folder).st_mtime_ns == then for folder, then in folders.items())
    except OSError:
        return False


def read_at_start(env: dict[str, str]) -> dict[str, str]:
    """Return the variables that a process reads when it starts."""
    return {name: value for name, value in env.items() if name.startswith(EARLY)}
