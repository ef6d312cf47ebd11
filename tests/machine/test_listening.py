"""Ports for kernels: nobody else's now, and nobody else's before the kernel binds them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mlvm.agent import listening

HERE = "127.0.0.1"


def test_five_different_ones() -> None:
    ports = listening.free_ports(HERE)

    assert set(ports) == set(listening.PORTS)
    assert len(set(ports.values())) == 5


def test_none_that_linux_hands_out() -> None:
    first = int(Path(listening.HANDED_OUT).read_text().split()[0])

    ports = [port for _ in range(50) for port in listening.free_ports(HERE).values()]

    assert max(ports) < first or first < listening.FIRST + listening.CHOICE // 2


def test_none_that_is_promised_or_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    promised = set(listening.free_ports(HERE).values())
    with socket.socket() as one:
        one.bind((HERE, 0))
        first = one.getsockname()[1]
        around = [first, *sorted(promised), *sorted(listening.free_ports(HERE, promised).values())]
        monkeypatch.setattr(listening, "_candidates", lambda: around)

        ports = listening.free_ports(HERE, promised)

    assert not {first, *promised} & set(ports.values())


def test_a_host_that_hands_out_nearly_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "range"
    told.write_text("1024\t65535\n")
    monkeypatch.setattr(listening, "HANDED_OUT", str(told))

    assert len(set(listening.free_ports(HERE).values())) == 5


def test_no_ports_left_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_candidates", lambda: range(20020, 20030))

    with pytest.raises(OSError, match="no ports left"):
        listening.free_ports(HERE, taken=range(20020, 20028))
