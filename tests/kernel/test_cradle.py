"""The process of a kernel, as the agent starts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mlvm.agent import listening

pytestmark = pytest.mark.jupyter

CRADLE = Path(listening.__file__).with_name("cradle.py")


def test_a_kernel_whose_heartbeat_cannot_listen_ends_and_says_why(tmp_path: Path) -> None:
    """The heartbeat is a thread: the kernel would live on, and whoever waits for it would wait in vain."""
    ports = listening.free_ports("127.0.0.1")
    file = tmp_path / "connection.json"
    file.write_text(json.dumps({**ports, "ip": "127.0.0.1", "transport": "tcp", "key": "k"}))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.socket() as somebody:
        somebody.bind(("127.0.0.1", ports["hb_port"]))
        ours.send(json.dumps({"claim": str(file)}).encode())

        ended = subprocess.run(
            [sys.executable, CRADLE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "IPYTHONDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert ended.returncode == 1
    assert "Address already in use" in ended.stderr
