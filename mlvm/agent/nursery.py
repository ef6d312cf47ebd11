"""A nursery of kernels: one process that has imported everything, from which kernels are forked.

Run with the user's Python, as `python nursery.py FD MODULE...`. It has one thread for as long as it lives, so what it
forks is whole. FD is one end of a SOCK_SEQPACKET pair to the agent:

    nursery: {"ready": true} when all is imported, or {"error": "..."} and its end
    agent: {"fork": true}, with two descriptors: the kernel's own channel and its log
    nursery: {"born": PID}; {"ended": PID, "code": CODE} when it has (minus the signal's number, when one killed it)
    agent: {"import": [MODULE...]}: what a rehearsal found to be needed, so that the next kernels have it
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from types import ModuleType

PACKET = 1 << 20
PACKAGE = "_mlvm_agent"


class Nursery:
    """The process kernels are forked from."""

    def __init__(self, channel: socket.socket, late_kernel: ModuleType) -> None:
        self.channel = channel
        self.late_kernel = late_kernel
        self._woken, wake = os.pipe()
        for fd in (self._woken, wake):
            os.set_blocking(fd, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Fork when asked, tell of ends; end when the agent does."""
        while True:
            ready, _, _ = select.select([self.channel.fileno(), self._woken], [], [])
            if self._woken in ready:
                with suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._tell_ends()
            if self.channel.fileno() in ready and not self._answer():
                return

    def _answer(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self.channel, PACKET, 2)
        if not data:
            return False
        request = json.loads(data)
        if "import" in request:
            for name in request["import"]:
                with suppress(Exception):  # some are no modules of their own
                    importlib.import_module(name)
            gc.freeze()
        if "fork" in request:
            self._fork(*fds)
        return True

    def _fork(self, channel: int, log: int) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_kernel(channel, log)
        os.close(channel)
        os.close(log)
        self._say({"born": pid})

    def _be_kernel(self, channel: int, log: int) -> None:
        """Become a kernel; never returns to what the nursery was doing."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            self.channel.close()
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            gc.unfreeze()
            self.late_kernel.serve_later(self.late_kernel.Channel(channel))
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            import atexit  # noqa: PLC0415

            atexit._run_exitfuncs()
            os._exit(code)

    def _tell_ends(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})

    def _say(self, message: dict[str, object]) -> None:
        with suppress(OSError):
            self.channel.send(json.dumps(message).encode())


def load_late_kernel() -> ModuleType:
    """Load a module beside this one under a name that none of the user's has, from a path they cannot use."""
    folder = sys.path.pop(0)
    package = importlib.util.spec_from_file_location(
        PACKAGE, folder + "/__init__.py", submodule_search_locations=[folder]
    )
    assert package is not None
    sys.modules[PACKAGE] = importlib.util.module_from_spec(package)
    return importlib.import_module(PACKAGE + ".late_kernel")


def main(fd: int, modules: list[str]) -> None:
    """Import everything, then serve."""
    channel = socket.socket(fileno=fd)
    try:
        late_kernel = load_late_kernel()
        for name in modules:
            importlib.import_module(name)
    except BaseException:
        channel.send(json.dumps({"error": traceback.format_exc(limit=-3)}).encode())
        return
    gc.collect()
    gc.freeze()
    nursery = Nursery(channel, late_kernel)
    channel.send(json.dumps({"ready": True}).encode())
    nursery.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
