"""When a machine counts as ready: real ports and real commands, in a guest that is this host."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlvm.errors import StageTimeout
from mlvm.machine import checks
from mlvm.spec.document import Ready
from tests.fakes import LoopbackGuest, TapeObserver


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[LoopbackGuest]:
    found = LoopbackGuest(tmp_path / "guest")
    yield found
    found.close()


def test_a_port_that_answers(guest: LoopbackGuest) -> None:
    tape = TapeObserver()
    with socket.create_server(("127.0.0.1", 0)) as server:
        checks.wait("one", guest, Ready(port=server.getsockname()[1], seconds=5), observer=tape)

    assert tape.stages == ["ready"]


def test_a_port_where_nobody_listens(guest: LoopbackGuest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    with pytest.raises(StageTimeout) as raised:
        checks.wait("one", guest, Ready(port=port, seconds=1), observer=TapeObserver())

    assert raised.value.message == f"machine `one` runs, and was not ready in 1 s: port {port} answers"
    assert "refused" in raised.value.details


def test_a_command_is_asked_until_it_succeeds(guest: LoopbackGuest, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    threading.Timer(1.2, flag.touch).start()
    began = time.monotonic()

    checks.wait("one", guest, Ready(command=f"test -e '{flag}'", seconds=30), observer=TapeObserver())

    assert 1 < time.monotonic() - began < 25


def test_what_a_command_said_last_is_told(guest: LoopbackGuest) -> None:
    with pytest.raises(StageTimeout) as raised:
        checks.wait(
            "one", guest, Ready(command="echo no disk >&2; exit 1", seconds=1), observer=TapeObserver()
        )

    assert raised.value.message == (
        "machine `one` runs, and was not ready in 1 s: `echo no disk >&2; exit 1` succeeds"
    )
    assert raised.value.details == "no disk"
    assert raised.value.hint == "look at it with `mlvm run one -- systemctl --failed`"
