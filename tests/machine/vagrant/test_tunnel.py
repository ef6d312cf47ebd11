"""The connection to a machine, with a real sshd on this host in the guest's place."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlvm.errors import MachineError
from mlvm.machine.record import Record
from mlvm.machine.vagrant import layout, tunnel
from mlvm.paths import Home

pytestmark = pytest.mark.vagrant

SSHD = Path("/usr/sbin/sshd")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)


@pytest.fixture
def record(home: Home) -> Record:
    record = Record(name="lab", provider="vagrant", image_id="0" * 64, project="/x", home=home)
    for name in ("host", "user"):
        make_key(layout.keys(record) / name)
    return record


@pytest.fixture
def sshd(record: Record, tmp_path: Path) -> Iterator[int]:
    """A server that has the machine's host key and takes its user's; yields its port."""
    port = free_port()
    allowed = tmp_path / "allowed"
    allowed.write_text((layout.keys(record) / "user.pub").read_text())
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {layout.keys(record) / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {allowed}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with subprocess.Popen([SSHD, "-D", "-e", "-f", config], stderr=subprocess.DEVNULL) as child:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            threading.Event().wait(0.05)
        yield port
        child.terminate()


def told(port: int) -> dict[str, str]:
    """What Vagrant would say of the machine."""
    user = (
        os.environ.get("USER")
        or subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout
    )
    return {"HostName": "127.0.0.1", "Port": str(port), "User": user.strip()}


@pytest.fixture
def opened(record: Record, sshd: int) -> Iterator[Record]:
    tunnel.write_config(record, told(sshd))
    tunnel.ensure(record)
    yield record
    tunnel.close(record)


@pytest.fixture
def service() -> Iterator[int]:
    """A port of the "guest" at which somebody says hello."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.sendall(b"hello")

    threading.Thread(target=serve, daemon=True).start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def said_at(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        return client.recv(10)


def test_a_connection_is_open_after_it_was_wanted(opened: Record) -> None:
    assert tunnel.alive(opened)


def test_a_connection_that_was_closed_is_not(opened: Record) -> None:
    tunnel.close(opened)
    assert not tunnel.alive(opened)


def test_another_host_key_is_refused(record: Record, sshd: int) -> None:
    (layout.keys(record) / "host.pub").unlink()
    make_key(layout.keys(record) / "other")
    (layout.keys(record) / "other.pub").rename(layout.keys(record) / "host.pub")
    tunnel.write_config(record, told(sshd))
    with pytest.raises(MachineError, match="shows another host key than the one that was made for it"):
        tunnel.ensure(record)


def test_nobody_at_the_other_end_is_explained(record: Record) -> None:
    tunnel.write_config(record, told(free_port()))
    with pytest.raises(MachineError, match="cannot be reached by ssh") as caught:
        tunnel.ensure(record)
    assert "Connection refused" in caught.value.details


def test_a_port_leads_to_the_guest_s(opened: Record, service: int) -> None:
    ports = tunnel.forward(opened, {"a": service}, {})
    assert said_at(ports["a"]) == b"hello"


def test_a_port_may_be_chosen(opened: Record, service: int) -> None:
    wanted = free_port()
    assert tunnel.forward(opened, {"a": service}, {"a": wanted}) == {"a": wanted}
    assert said_at(wanted) == b"hello"


def test_the_same_may_be_asked_for_twice(opened: Record, service: int) -> None:
    ports = tunnel.forward(opened, {"a": service}, {})
    assert tunnel.forward(opened, {"a": service}, ports) == ports
    assert said_at(ports["a"]) == b"hello"


def test_a_taken_port_is_an_error_that_names_it(opened: Record, service: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(MachineError, match=f"port {taken} of this host is taken"):
            tunnel.forward(opened, {"a": service}, {"a": taken})


def test_what_could_be_led_beside_a_taken_port_is_not_left_behind(opened: Record, service: int) -> None:
    other_port = free_port()
    with socket.create_server(("127.0.0.1", 0)) as other:
        wanted = {"a": other_port, "b": other.getsockname()[1]}
        with pytest.raises(MachineError):
            tunnel.forward(opened, {"a": service, "b": service}, wanted)
    with pytest.raises(ConnectionRefusedError):
        said_at(other_port)


def test_a_port_leads_nowhere_after_it_was_taken_back(opened: Record, service: int) -> None:
    ports = tunnel.forward(opened, {"a": service}, {})
    tunnel.unforward(opened, list(ports.values()))
    with pytest.raises(ConnectionRefusedError):
        said_at(ports["a"])


def test_ports_are_led_again_by_a_new_connection(opened: Record, service: int) -> None:
    ports = tunnel.forward(opened, {"a": service}, {})
    tunnel.close(opened)
    tunnel.ensure(opened)
    assert said_at(ports["a"]) == b"hello"


def test_a_port_that_was_taken_meanwhile_does_not_keep_the_others_away(opened: Record, service: int) -> None:
    ports = tunnel.forward(opened, {"a": service, "b": service}, {})
    tunnel.close(opened)
    with socket.create_server(("127.0.0.1", ports["a"])):
        tunnel.ensure(opened)
        assert said_at(ports["b"]) == b"hello"


def test_no_port_listens_beyond_loopback(opened: Record, service: int) -> None:
    ports = tunnel.forward(opened, {"a": service}, {})
    listening = subprocess.run(
        ["ss", "-tlnH", f"sport = {ports['a']}"], capture_output=True, text=True, check=True
    )
    assert [line.split()[3] for line in listening.stdout.splitlines()] == [f"127.0.0.1:{ports['a']}"]
