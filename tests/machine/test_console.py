"""One's own terminal joined to a console: a socket here stands for QEMU's."""

from __future__ import annotations

import io
import os
import pty
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from mlvm.errors import MachineError
from mlvm.machine.qemu import console
from mlvm.machine.record import Record
from mlvm.paths import Home

from .test_argv import RECORD


@pytest.fixture
def machine(home: Home) -> Record:
    record = replace(RECORD, home=home)
    folder = home.sockets(record.name)
    folder.mkdir(parents=True)
    return record


@pytest.fixture
def guest_side(machine: Record) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(machine.home.sockets(machine.name) / "console.sock"))
        listener.listen()
        listener.settimeout(5)
        yield listener


def test_keys_go_in_text_comes_out_and_ctrl_bracket_leaves(
    machine: Record, guest_side: socket.socket
) -> None:
    ours, theirs = pty.openpty()
    out = io.BytesIO()
    with os.fdopen(theirs, "rb", buffering=0) as stdin:
        worker = threading.Thread(target=console.attach, args=(machine, stdin, out))
        worker.start()
        connection, _ = guest_side.accept()
        with connection:
            connection.settimeout(5)
            connection.sendall(b"login: ")
            while out.getvalue() != b"login: ":  # the terminal is raw from here on
                assert worker.is_alive()
            os.write(ours, b"\x03")
            typed = connection.recv(10)
            os.write(ours, b"x\x1dignored")
            last = connection.recv(10)
            worker.join(5)
    os.close(ours)

    assert not worker.is_alive()
    assert (typed + last, out.getvalue()) == (b"\x03x", b"login: ")


def test_the_machines_end_is_the_end(machine: Record, guest_side: socket.socket) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin:
        worker = threading.Thread(target=console.attach, args=(machine, stdin, io.BytesIO()))
        worker.start()
        guest_side.accept()[0].close()
        worker.join(5)
    os.close(writing)

    assert not worker.is_alive()


def test_a_machine_that_does_not_run(machine: Record) -> None:
    with pytest.raises(MachineError, match="machine `box` has no console now: it is not running"):
        console.attach(machine, io.BytesIO(), io.BytesIO())


def test_two_people_at_one_console(machine: Record, guest_side: socket.socket) -> None:
    with console._alone(machine):
        with pytest.raises(
            MachineError, match="somebody is attached to the console of machine `box` already"
        ):
            console.attach(machine, io.BytesIO(), io.BytesIO())
