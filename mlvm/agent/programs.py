"""Run a program for a client, its streams carried as they flow.

To the program: {"in": ...}, {"in": null} (end of input), {"winsize": [rows, columns]}, {"signal": n},
{"beat": 1} (answered, so that a silent program can be told from a dead guest). From it: {"started": pid},
{"out": ...}, {"err": ...}, {"took": n} and at last {"exit": code} (minus the signal's number when one killed
it).

Neither side can be made to hold more than a window of the other's bytes: the client may have WINDOW bytes of
input not yet acknowledged by {"took": n}, and output is read no faster than the wire carries it. The program
leads its own session; when the client vanishes its process group hears SIGHUP and SIGTERM, as from a terminal
that closes.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH112

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import termios
import threading
from contextlib import suppress

from .wire import CHUNK, OUTPUT_LIMIT, Message, Wire, decode, encode
from .world import World, account, environment_of, identity_of

WINDOW = 256 * 1024
#: Seconds between SIGHUP and SIGTERM for a program whose client is gone.
GRACE = 3.0


def execute(world: World, wire: Wire, request: Message) -> None:
    """Run one program to its end."""
    program = _Program(world, request)
    try:
        wire.queue({"started": program.child.pid, "window": WINDOW})
        while not program.finished:
            _turn(wire, program)
        program.read_rest(wire)
        wire.queue({"exit": program.child.wait()})
    finally:
        program.end()


def _turn(wire: Wire, program: _Program) -> None:
    """Wait for something to happen, and carry it."""
    happened = wire.poll(program.interests(readable=wire.waiting < OUTPUT_LIMIT))
    wire.carry(happened.pop(wire.fd, 0))
    while (message := wire.take()) is not None:
        if message.get("beat"):
            wire.queue({"beat": 1})
        program.hear(message)
    for fd in happened:
        program.carry(wire, fd)


class _Program:
    """A child process, and the descriptors that join it to the wire."""

    def __init__(self, world: World, request: Message) -> None:
        command = request["argv"]
        if not command or not all(isinstance(word, str) for word in command):
            raise ValueError("`argv` must be a list of strings, and not empty")
        who = account(request.get("user") or world.user)
        env = environment_of(world, who, dict(request.get("env") or {}))
        cwd = request.get("cwd") or (who.pw_dir if os.path.isdir(who.pw_dir) else "/")
        self.finished = False
        self._pending = bytearray()
        self._closing = False
        self._took = 0
        self._outputs: dict[int, str] = {}
        self._input: int | None = None
        self.child = (self._on_terminal if request.get("tty") else self._on_pipes)(
            request, args=command, env=env, cwd=cwd, start_new_session=True, **identity_of(who)
        )
        self._ended = os.pidfd_open(self.child.pid)

    def _on_pipes(self, _request: Message, **options: object) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        child: subprocess.Popen[bytes] = subprocess.Popen(
            **options,  # type: ignore[call-overload]
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
        )
        assert child.stdin
        assert child.stdout
        assert child.stderr
        self._outputs = {os.dup(child.stdout.fileno()): "out", os.dup(child.stderr.fileno()): "err"}
        self._input = os.dup(child.stdin.fileno())
        for stream in (child.stdin, child.stdout, child.stderr):
            stream.close()
        for fd in (*self._outputs, self._input):
            os.set_blocking(fd, False)
        return child

    def _on_terminal(self, request: Message, **options: object) -> subprocess.Popen[bytes]:
        ours, theirs = os.openpty()
        try:
            _resize(ours, request.get("winsize") or [24, 80])
            identity = options.get("user")
            if isinstance(identity, int):
                os.fchown(theirs, identity, -1)
            child: subprocess.Popen[bytes] = subprocess.Popen(
                **options,  # type: ignore[call-overload]
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                # Nothing else gives a session its terminal; it is one system call, safe after a fork.
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        os.set_blocking(ours, False)
        self._outputs = {ours: "out"}
        self._input = os.dup(ours)
        return child

    def interests(self, *, readable: bool) -> list[tuple[int, int]]:
        """Return what to wait for: output while there is room, input to hand over, the program's end."""
        wanted = [(self._ended, select.POLLIN)]
        if readable:
            wanted += [(fd, select.POLLIN) for fd in self._outputs]
        if self._input is not None and self._pending:
            wanted.append((self._input, select.POLLOUT))
        return wanted

    def hear(self, message: Message) -> None:
        """Do what the client asks of the running program."""
        if "in" in message:
            if message["in"] is None:
                self._closing = True
                self._close_input_if_done()
            else:
                self._pending += decode(message["in"])
        elif "winsize" in message:
            for fd in filter(os.isatty, self._outputs):
                _resize(fd, message["winsize"])
        elif "signal" in message:
            self.signal(int(message["signal"]))

    def carry(self, wire: Wire, fd: int) -> None:
        """Move bytes through one of the descriptors."""
        if fd == self._ended:
            self.finished = True
        elif fd == self._input:
            self._feed(wire)
        elif fd in self._outputs:
            self._read(wire, fd)

    def _feed(self, wire: Wire) -> None:
        assert self._input is not None
        try:
            taken = os.write(self._input, self._pending[:CHUNK])
        except BlockingIOError:
            return
        except OSError:  # it does not read any more: what is still to come is taken and thrown away
            taken = len(self._pending)
        del self._pending[:taken]
        wire.queue({"took": taken})
        self._close_input_if_done()

    def _close_input_if_done(self) -> None:
        if self._closing and not self._pending and self._input is not None:
            if os.isatty(self._input):
                os.write(self._input, b"\x04")
            os.close(self._input)
            self._input = None

    def _read(self, wire: Wire, fd: int) -> bool:
        """Queue what the program has written; return False when there is nothing more for now."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # a terminal whose other side is closed says EIO
            data = b""
        if not data:
            del self._outputs[fd]
            os.close(fd)
            return False
        wire.queue({self._outputs[fd]: encode(data)})
        return True

    def read_rest(self, wire: Wire) -> None:
        """Carry what the ended program left behind, not waiting for children it left behind too.

        A pipe holds it already; a terminal's last words are still on their way through the tty layer.
        """
        for fd in list(self._outputs):
            grace = 0.2 if os.isatty(fd) else 0.0
            while self._read(wire, fd) or (fd in self._outputs and select.select([fd], [], [], grace)[0]):
                while wire.waiting > OUTPUT_LIMIT:
                    wire.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the program's process group, if there is still anybody."""
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, number)

    def end(self) -> None:
        """Let go of everything; a program that still runs hears of it, and is waited for elsewhere."""
        if self.child.poll() is None:
            self.signal(signal.SIGHUP)
            self.signal(signal.SIGCONT)
            threading.Thread(target=self._await_end, daemon=True).start()
        else:
            self._close()

    def _await_end(self) -> None:
        """Keep the pipes open meanwhile: a shell that complains of its children would die of SIGPIPE."""
        try:
            self.child.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGTERM)
        self._close()
        self.child.wait()

    def _close(self) -> None:
        for fd in (*self._outputs, self._ended, *([] if self._input is None else [self._input])):
            os.close(fd)


def _resize(fd: int, size: list[int]) -> None:
    rows, columns = (max(1, min(int(number), 0x7FFF)) for number in size)
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
