"""A kernel process, and its line to the agent.

Run with the user's Python, as `python cradle.py FD`: an ordinary ipykernel; with `wait` after it, one that is ready
before its claim (see `late_kernel`). FD is one end of a SOCK_SEQPACKET pair, a JSON object a packet; the agent holds
the other:

    agent: {"claim": PATH, "env": {...}, "cwd": PATH}   serve the connection file PATH
    agent: {"renew": true}                              this machine is a copy now: draw new random numbers
    agent: {"tap": {...}}                               what `tap.Tap.command` does
    kernel: {"ok": null} when that is done

In a fork of its machine a kernel is released and claimed again (see `admission`):

    agent: {"release": true}                            this machine is a fork: renew, and let nobody in any more
    kernel: {"released": {"notebook": ..., "active": SECONDS}}
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

PACKET = 1 << 20
PACKAGE = "_mlvm_agent"
HERE = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120


class Channel:
    """The line to the agent."""

    def __init__(self, fd: int) -> None:
        self.socket = socket.socket(fileno=fd)

    def send(self, message: dict[str, Any]) -> None:
        """Send one message; an agent that is gone is no error."""
        with suppress(OSError):
            self.socket.send(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        """Return the next message; EOFError when the agent is gone."""
        data = self.socket.recv(PACKET)
        if not data:
            raise EOFError
        message: dict[str, Any] = json.loads(data)
        return message


def serve_now(channel: Channel) -> None:
    """Be an ordinary ipykernel: wait for the claim, then do everything."""
    claim = channel.receive()
    from ipykernel.kernelapp import IPKernelApp  # noqa: PLC0415

    if not hasattr(IPKernelApp, "_apply_curve_server_options"):
        serve_older(channel, claim)
        return

    class App(IPKernelApp):  # type: ignore[misc, unused-ignore]
        """An ordinary ipykernel that has a tap before it has clients."""

        tap: Any = None

        def init_iopub(self, context: Any) -> None:
            super().init_iopub(context)  # type: ignore[no-untyped-call, unused-ignore]
            self.tap = sibling("tap").install(self, claim["claim"])

        def init_heartbeat(self) -> None:
            insist_on_heartbeat(self)
            super().init_heartbeat()  # type: ignore[no-untyped-call, unused-ignore]

    app: Any = App.instance()
    app.initialize(["-f", claim["claim"]])
    if app.tap is not None:
        app.tap.join()
    stay_in_touch(app, channel, app.tap)
    app.start()


def insist_on_heartbeat(app: Any) -> None:
    """Let a kernel end whose heartbeat, a thread, ends by an error: it would live on, and answer to nobody."""
    usual = threading.excepthook

    def failed(what: Any) -> None:
        usual(what)
        if what.thread is not None and what.thread is app.heartbeat:
            sys.stderr.flush()
            os._exit(1)

    threading.excepthook = failed


def serve_older(channel: Channel, claim: dict[str, Any]) -> None:
    """Be an ipykernel of the last version for an old Python."""
    app: Any = sibling("older").OlderApp.instance()
    app.initialize(["-f", claim["claim"]])
    stay_in_touch(app, channel, None)
    app.start()


def sibling(name: str) -> Any:
    """Load a module beside this one under a name that none of the user's has."""
    package = importlib.util.spec_from_file_location(
        PACKAGE, HERE + "/__init__.py", submodule_search_locations=[HERE]
    )
    assert package is not None
    sys.modules.setdefault(PACKAGE, importlib.util.module_from_spec(package))
    return importlib.import_module(f"{PACKAGE}.{name}")


def stay_in_touch(app: Any, channel: Channel, tap: Any) -> None:
    """Go on listening to the agent, in the thread that no cell can block."""
    loop = app.control_thread.io_loop

    def heard(*_: Any) -> None:
        try:
            message = channel.receive()
        except (EOFError, OSError):
            loop.remove_handler(channel.socket)
            return
        if "renew" in message:
            renew(app)
            channel.send({"ok": None})
        elif "tap" in message:
            if tap is not None:
                tap.command(message["tap"])
            channel.send({"ok": None})
        else:
            if "claim" in message and tap is not None:
                # What a cell said while nobody could listen is shown by the next one.
                tap.command({"adopt": "cell"})
            sibling("admission").hear(app, channel, message, renew)

    loop.add_callback(lambda: loop.add_handler(channel.socket, heard, loop.READ))


def folders() -> dict[str, int]:
    """Return where packages are installed, and when one was last added there or removed, in nanoseconds.

    Folders of the user's own are not asked: nothing of theirs is imported before a kernel is claimed.
    """
    found = {}
    for folder in sys.path:
        if not folder.endswith(("site-packages", "dist-packages")):
            continue
        with suppress(OSError):
            found[folder] = os.stat(folder).st_mtime_ns  # noqa: PTH116
    return found


def renew(app: Any) -> None:
    """Draw everything anew that two copies of this process must not share.

    The guest kernel's own generator has been renewed before. What Python chose when it started (the secret of `hash`),
    and generators that the user's own variables hold, stay as they are.
    """
    loaded = sys.modules
    if "random" in loaded:
        loaded["random"].seed(os.urandom(32))
    if "numpy.random" in loaded:
        words = [int.from_bytes(os.urandom(4), "little") for _ in range(8)]
        loaded["numpy.random"].seed(words)
    if "torch" in loaded:
        # Not `torch.seed()`: it would note down, source lines and all, what to do should a GPU be asked for one day.
        loaded["torch"].default_generator.seed()
        if loaded["torch"].cuda.is_initialized():
            loaded["torch"].cuda.seed_all()
    if "ssl" in loaded:
        loaded["ssl"].RAND_add(os.urandom(32), 32.0)
    if tempfile := loaded.get("tempfile"):
        vars(tempfile)["_name_sequence"] = None
    if "multiprocessing.process" in loaded:
        loaded["multiprocessing.process"].current_process().authkey = os.urandom(32)
    if hasattr(app.iopub_thread, "_pipe_uuid"):  # what outputs of child processes are known by
        app.iopub_thread._pipe_uuid = os.urandom(16)


if __name__ == "__main__":
    sys.path.pop(0)  # this file's own folder
    line = Channel(int(sys.argv[1]))
    if sys.argv[2:] == ["wait"]:
        sibling("late_kernel").serve_later(line, brief=True)
    else:
        serve_now(line)
