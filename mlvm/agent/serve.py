"""One thread per port, one conversation per client.

A request is answered with {"ok": ...} or {"error": "..."}; nothing a client sends ends the agent. A vanished
client ends the program it was streaming (see `programs`), never a Jupyter kernel.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from . import files, guest, keeping, kernels, ports, programs, renewal, sharing
from .boot import Boot
from .wire import Message, Replaced, Vanished, Wire, decode
from .world import VERSION, World

#: Seconds for which a greeting is waited to leave.
GREETING = 1.0

TYPE_CHECKING = False  # see `wire`
if TYPE_CHECKING:
    from collections.abc import Callable

    from .early import Child

    Port = ports.VirtioPort | ports.SocketPort


class Agent:
    """What requests act on: the world, and the kernels that live in it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kernels = kernels.Kernels(world)
        self.shares = sharing.Shares(world)
        self.boot = Boot(world.kernel_ip)
        #: When we began to listen, in seconds since the guest kernel's start.
        self.listening = 0.0
        #: Requests with one answer; the others speak over the wire for as long as they take.
        self.answers: dict[str, Callable[[Message], object]] = {
            "ping": lambda _: self.greeting(),
            "configure": lambda request: guest.configure(world, request),
            "clock": lambda request: guest.set_clock(request["time"]),
            "sync": lambda _: os.sync(),
            "poweroff": lambda _: guest.power_off(),
            "renew": self.renew,
            "share": self.shares.share,
            "share_reset": self.shares.reset,
            "share_status": self.shares.status,
            "kernel_prepare": self.prepare,
            "kernel_start": self.kernels.start,
            "kernel_poll": self.kernels.poll,
            "kernel_waiting": lambda _: self.kernels.waiting(),
            "kernel_signal": self.kernels.signal,
            "kernel_log": self.kernels.log,
            "kernel_list": lambda _: keeping.tell(self.kernels.all()),
            "kernel_adopt": lambda request: keeping.adopt(self.kernels.all(), request),
            "kernel_hold": lambda request: keeping.hold(self.kernels.all(), request),
        }
        self.conversations: dict[str, Callable[[World, Wire, Message], None]] = {
            "exec": programs.execute,
            "put": files.put,
            "get": files.get,
        }

    def greeting(self) -> Message:
        """Say who is here."""
        system = os.uname()
        return {
            "agent": VERSION,
            "hostname": system.nodename,
            "kernel": system.release,
            "python": sys.version.split()[0],
            "uptime": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
            "listening": self.listening,
            "time": time.time(),
        }

    def renew(self, request: Message) -> Message:
        """Become a guest of its own after a restore: entropy first, since everything else draws on it."""
        if "entropy" in request:
            renewal.add_entropy(decode(request["entropy"]))
        # A new hardware address is mostly waiting in the guest kernel.
        moving = threading.Thread(target=renewal.set_mac, args=("eth0", request.get("mac")))
        moving.start()
        answer = guest.configure(self.world, request)
        if request.get("fork"):
            answer["kernels"] = self.kernels.release()
            guest.part_from(self.world, request)
        else:
            self.kernels.renew()
        moving.join()
        if "shares" in request:
            self.shares.share(request)
        return answer

    def prepare(self, request: Message) -> Message:
        """Get ready for what comes after a restore."""
        self.shares.prepare()
        return self.kernels.prepare(request)

    def serve(self, port: Port) -> None:
        """Serve one client of `port` after another, for ever."""
        while True:
            try:
                self.converse(port.wait())
            except Vanished:
                port.lost()

    def converse(self, wire: Wire) -> None:
        """Answer requests until the client vanishes; what comes before its `hello` is thrown away."""
        while True:
            try:
                request = wire.receive()
                if wire.greeted:
                    self.answer(wire, request)
            except Replaced as replaced:
                wire.greet({"hello": replaced.message.get("nonce"), **self.greeting()})
                wire.flush(GREETING)  # what is asked next may be here already, and take long

    def answer(self, wire: Wire, request: Message) -> None:
        """Answer one request; whatever goes wrong is the answer."""
        name = str(request.get("op"))
        try:
            if name == "kernel_prepare" or (name == "exec" and request.get("user") != "root"):
                self.boot.wait()
            elif name == "kernel_start":
                self.boot.wait_for_address()
            if name == "kernel_start" or (
                name == "exec" and (request.get("user") != "root" or request.get("cwd"))
            ):
                self.shares.wait(request.get("cwd"))
            if conversation := self.conversations.get(name):
                conversation(self.world, wire, request)
            elif answer := self.answers.get(name):
                wire.queue({"ok": answer(request)})
            else:
                wire.queue({"error": f"there is no `{name}`"})
        except (Vanished, Replaced):
            raise
        except KeyError as missing:
            wire.queue({"error": f"`{name}` needs {missing}"})
        except OSError as failed:
            wire.queue(
                {"error": failed.strerror or str(failed), "errno": failed.errno, "path": failed.filename}
            )
        except Exception as wrong:
            wire.queue({"error": str(wrong) or type(wrong).__name__})


def main(world: World, sockets: str | None, child: Child | None) -> None:
    """Serve until the end: at virtio ports, or at sockets in a folder; `child` is a kernel that `early` has begun."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # programs inherit what is ignored here, and cannot undo it
    agent = Agent(world)
    found: list[Port] = [*(ports.open_sockets(sockets) if sockets else ports.open_virtio())]
    agent.listening = round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)
    if sockets:
        agent.boot.skip()
    else:
        announce("mlvm-agent: listening")
    if child:
        agent.kernels.expect(child)
    threads = [threading.Thread(target=agent.serve, args=(port,)) for port in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def announce(text: str) -> None:
    """Tell whoever reads the console that the agent is there."""
    try:
        with open("/dev/console", "w") as console:  # noqa: PTH123
            console.write(f"\r{text}\r\n")
    except OSError as failed:
        sys.stderr.write(f"no console: {failed}\n")
