"""What all tests share: a home of their own, and a guard that keeps unit tests from starting anything.

A test without a mark may run neither a hypervisor nor a package manager nor reach beyond loopback: the guard turns
each attempt into an error that names the missing mark.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from mlvm.paths import Home

# How long an example takes says more about who else uses the host than about what is tested.
settings.register_profile("mlvm", deadline=None)
settings.load_profile("mlvm")

#: Programs that a unit test must not start, and the mark that allows each.
GUARDED = {
    "qemu-system-x86_64": {"boot"},
    "vagrant": {"vagrant"},
    "apt-get": {"network"},
    "uv": {"network", "boot", "golden"},
    "mmdebstrap": {"golden"},
    "ipykernel_launcher": {"jupyter", "boot"},
}


@pytest.fixture(autouse=True)
def guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse guarded programs and foreign addresses to tests that do not carry the mark."""
    marks = {mark.name for mark in request.node.iter_markers()}
    start = subprocess.Popen.__init__
    connect = socket.socket.connect

    def guarded_start(self: subprocess.Popen[bytes], args: object, *rest: object, **options: object) -> None:
        words = [os.fsdecode(word) for word in args] if isinstance(args, list | tuple) else str(args).split()
        named = {Path(words[0]).name, *(word for word in words[:4] if word in GUARDED)}
        if any(word.endswith("agent/main.py") for word in words):
            named.add("ipykernel_launcher")
        program = next((name for name in named if name in GUARDED), words[0])
        allowed = GUARDED.get(program)
        if allowed is not None and not allowed & marks:
            pytest.fail(f"this test starts `{program}` without one of the marks {sorted(allowed)}")
        start(self, args, *rest, **options)  # type: ignore[arg-type]

    def guarded_connect(self: socket.socket, address: object) -> None:
        foreign = isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1", "localhost"))
        if foreign and not marks & {"network", "golden", "boot", "browser", "vagrant"}:
            pytest.fail(f"this test connects to {address} without the mark `network`")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(subprocess.Popen, "__init__", guarded_start)
    monkeypatch.setattr(socket.socket, "connect", guarded_connect)


@pytest.fixture(scope="session")
def chain_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home for tests of the whole chain: machines and builds of this run, downloads kept between runs.

    Downloads are verified against the lock whenever they are fetched and named by their digest, so keeping them is
    honest; everything made from them is made anew.
    """
    kept = Path(os.environ.get("MLVM_TEST_DOWNLOADS") or "~/.cache/mlvm-tests/blobs").expanduser()
    kept.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLVM_HOME", str(tmp_path_factory.mktemp("chain")))
        patch.setenv("MLVM_WARM", "off")  # nothing in the background of a test that does not ask for it
        found = Home.find()
        found.store.mkdir(parents=True)
        (found.store / "blobs").symlink_to(kept)
        yield found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty mlvm home under the test's own folder; also what `Home.find()` returns meanwhile."""
    monkeypatch.setenv("MLVM_HOME", str(tmp_path / "home"))
    return Home.find()
