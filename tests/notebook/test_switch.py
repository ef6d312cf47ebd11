"""Asking a Jupyter server, played by a small server that answers as one does."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlvm.errors import KernelError
from mlvm.notebook import switch

KERNEL_ID = "0a1b"


class Answers(BaseHTTPRequestHandler):
    """One session, for whoever has the token."""

    asked: list[tuple[str, str, Any]]

    def do_GET(self) -> None:
        self._answer([{"id": "s1", "kernel": {"id": KERNEL_ID, "name": "python3"}}])

    def do_PATCH(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.command, self.path, body))
        self._answer({}, status=500 if body["kernel"]["name"] == "broken" else 200)

    def _answer(self, what: object, status: int = 200) -> None:
        right = self.headers.get("Authorization") == "token secret"
        text = json.dumps(what).encode()
        self.send_response(status if right else 403)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    made = HTTPServer(("127.0.0.1", 0), Answers)
    Answers.asked = []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jupyter's runtime folder, and a kernel whose connection file is known."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("ipykernel.connect.get_connection_file", lambda: f"/run/kernel-{KERNEL_ID}.json")
    return tmp_path


def announce(runtime: Path, port: int, **more: object) -> None:
    told = {"url": f"http://127.0.0.1:{port}/base/", "token": "secret", "pid": os.getpid(), **more}
    (runtime / "jpserver-1.json").write_text(json.dumps(told))


NOTEBOOK = SimpleNamespace(kernel=object())


def test_the_session_is_found_and_changed(runtime: Path, server: HTTPServer) -> None:
    announce(runtime, server.server_port)

    switch.change(switch.find_session(NOTEBOOK), "mlvm-box")

    assert Answers.asked == [("PATCH", "/base/api/sessions/s1", {"kernel": {"name": "mlvm-box"}})]


def test_a_server_without_a_token_says_no(runtime: Path, server: HTTPServer) -> None:
    announce(runtime, server.server_port, token="")

    with pytest.raises(KernelError) as refused:
        switch.find_session(NOTEBOOK)

    assert "it wants a password, and gives programs no token" in refused.value.details
    assert "Change Kernel" in refused.value.hint


def test_a_server_that_has_ended_is_not_asked(runtime: Path, server: HTTPServer) -> None:
    announce(runtime, server.server_port, pid=1 << 30)

    with pytest.raises(KernelError) as refused:
        switch.find_session(NOTEBOOK)

    assert refused.value.details == "no server of this user runs here"


def test_files_that_cannot_be_read_are_no_servers(runtime: Path) -> None:
    (runtime / "jpserver-1.json").write_text("{")
    (runtime / "jpserver-2.json").write_text("[]")

    with pytest.raises(KernelError, match=r"^no Jupyter server says"):
        switch.find_session(NOTEBOOK)


def test_a_terminal_has_no_kernel_to_switch() -> None:
    with pytest.raises(KernelError, match=r"^only the kernel of a notebook can be switched$"):
        switch.find_session(SimpleNamespace())


def test_a_change_that_fails_says_why(runtime: Path, server: HTTPServer) -> None:
    announce(runtime, server.server_port)

    with pytest.raises(KernelError, match=r"^it answers 500 Internal Server Error$"):
        switch.change(switch.find_session(NOTEBOOK), "broken")
