"""The last ipykernel for Python 3.9, as the agent starts it: who has its keys gets in, and nobody else."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from uv import find_uv_bin

from mlvm.agent.listening import free_ports

pytestmark = [pytest.mark.jupyter, pytest.mark.network]

CRADLE = Path(__file__).parents[2] / "mlvm" / "agent" / "cradle.py"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, socket.socket]]:
    """A connection file of a living kernel of that ipykernel, with this Python, and the agent's end of its line."""
    folder = tmp_path_factory.mktemp("older")
    site = folder / "site"
    wanted = ["ipykernel==6.31.0", "jupyter_client<8.7"]
    subprocess.run([find_uv_bin(), "pip", "install", "--quiet", "--target", site, *wanted], check=True)
    public, secret = zmq.curve_keypair()
    path = folder / "connection.json"
    told = {
        **free_ports("127.0.0.1"),
        "ip": "127.0.0.1",
        "transport": "tcp",
        "key": "k",
        "signature_scheme": "hmac-sha256",
        "curve_publickey": public.decode(),
        "curve_secretkey": secret.decode(),
        "kernel_name": "",
    }
    path.write_text(json.dumps(told))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = subprocess.Popen(
        [sys.executable, CRADLE, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env={**os.environ, "PYTHONPATH": str(site), "IPYTHONDIR": str(folder / "ipython")},
        stderr=subprocess.DEVNULL,
    )
    ours.send(json.dumps({"claim": str(path)}).encode())
    yield path, ours
    child.kill()
    child.wait()
    ours.close()
    theirs.close()


def answers(path: Path, seconds: float) -> bool:
    """Tell whether the kernel tells a client with this connection file about itself."""
    client = BlockingKernelClient()
    client.load_connection_file(str(path))
    client.start_channels()
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            client.kernel_info()
            with suppress(queue.Empty):
                client.get_shell_msg(timeout=5)
                return True
    finally:
        client.stop_channels()
    return False


def test_with_the_keys_cells_run(kernel: tuple[Path, socket.socket]) -> None:
    path, _ = kernel
    client = BlockingKernelClient()
    client.load_connection_file(str(path))
    client.start_channels()
    said: list[str] = []
    assert answers(path, 120)

    reply = client.execute_interactive(
        "import ipykernel; print(ipykernel.__version__)",
        timeout=60,
        output_hook=lambda message: said.append(message["content"].get("text", "")),
    )
    client.stop_channels()

    assert (reply["content"]["status"], "".join(said)) == ("ok", "6.31.0\n")


def test_without_the_keys_nobody_gets_in(kernel: tuple[Path, socket.socket]) -> None:
    path, _ = kernel
    told = json.loads(path.read_text())
    bare = path.with_name("bare.json")
    bare.write_text(json.dumps({key: value for key, value in told.items() if not key.startswith("curve")}))

    assert answers(path, 60)
    assert not answers(bare, 5)


def test_it_draws_new_random_numbers_when_told(kernel: tuple[Path, socket.socket]) -> None:
    path, line = kernel
    assert answers(path, 60)

    line.send(b'{"renew": true}')

    assert json.loads(line.recv(1000)) == {"ok": None}
