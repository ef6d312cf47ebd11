"""The launcher for frontends that ignore provisioners, driven by Jupyter's own provisioner for local processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import agent_world
import hearing
import pytest
import zmq
from jupyter_client.manager import KernelManager
from test_keeping import until
from test_provisioner import WAIT, client_of, execute

from mlvm.errors import KernelError
from mlvm.kernel import kernelspec, launch, relay, standalone
from mlvm.machine.channel import AgentGuest

LAUNCHER = Path(__file__).parent / "launcher.py"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose agent is real, in a folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="mlvm-t-") as made, agent_world.agent(Path(made)):
        monkeypatch.setenv("MLVM_HOME", str(Path(made) / "home"))
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(Path(made) / "runtime"))
        monkeypatch.setattr(launch, "open_machine", launch.open_machine)  # put back at the end
        monkeypatch.setattr(agent_world.table, "PROVIDERS", agent_world.table.PROVIDERS)
        agent_world.enter(Path(made))
        yield Path(made)


def on_ports_of_its_own(manager: KernelManager) -> KernelManager:
    """Choose the frontend's ports: those that Jupyter chooses, others may have before they are bound."""
    from fakes import free_ports

    manager.cache_ports = False
    for name, port in free_ports().items():
        setattr(manager, name, port)
    return manager


def spec_of(folder: Path) -> dict[str, object]:
    """The kernelspec as a frontend sees it that ignores provisioners."""
    document = kernelspec.document("box", folder / "project", "box")
    assert isinstance(document["metadata"], dict)
    del document["metadata"]["kernel_provisioner"]
    return {**document, "argv": [sys.executable, str(LAUNCHER), str(folder), "{connection_file}"]}


@pytest.fixture(params=["disabled", "auto"], ids=["plain", "curve"])
def manager(request: pytest.FixtureRequest, folder: Path) -> Iterator[KernelManager]:
    made = KernelManager(
        kernel_name="box",
        transport_encryption=request.param,
        kernel_spec_manager=kernelspec.SingleSpec(spec_of(folder)),
    )
    on_ports_of_its_own(made).start_kernel()
    yield made
    if made.has_kernel:
        made.shutdown_kernel(now=True)


@pytest.fixture
def plain(folder: Path) -> Iterator[KernelManager]:
    made = KernelManager(kernel_name="box", kernel_spec_manager=kernelspec.SingleSpec(spec_of(folder)))
    on_ports_of_its_own(made).start_kernel(stderr=subprocess.PIPE)
    yield made
    if made.has_kernel:
        made.shutdown_kernel(now=True)


def codes(folder: Path) -> list[int | None]:
    """How the kernels of the machine are: None, or the exit code."""
    return [told["code"] for told in AgentGuest(folder).list_kernels()]


@pytest.mark.jupyter
def test_cells_input_and_interrupt(manager: KernelManager, folder: Path) -> None:
    (told,) = until(AgentGuest(folder).list_kernels)
    with client_of(manager) as client:
        assert execute(client, "import os; print(os.getpid())")[1] == f"{told['pid']}\n"
        written: list[str] = []
        client.execute_interactive(
            "print('hello', input('who? '))",
            timeout=WAIT,
            allow_stdin=True,
            stdin_hook=lambda _: client.input("Ada"),
            output_hook=lambda m: written.append(m["content"].get("text", "")),
        )
        assert "".join(written) == "hello Ada\n"
        message = client.execute("import time; print('go', flush=True); time.sleep(60)")
        while client.get_iopub_msg(timeout=WAIT)["msg_type"] != "stream":
            pass
        manager.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=WAIT))["parent_header"]["msg_id"] != message:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"


@pytest.mark.jupyter
def test_sigint_interrupts(plain: KernelManager) -> None:
    with client_of(plain) as client:
        message = client.execute("import time; print('go', flush=True); time.sleep(60)")
        while client.get_iopub_msg(timeout=WAIT)["msg_type"] != "stream":
            pass

        plain.signal_kernel(signal.SIGINT)

        while (reply := client.get_shell_msg(timeout=WAIT))["parent_header"]["msg_id"] != message:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"


@pytest.mark.jupyter
@pytest.mark.parametrize("now", [False, True])
def test_restart_leaves_no_kernel_behind(manager: KernelManager, folder: Path, now: bool) -> None:
    with client_of(manager) as client:
        execute(client, "kept = 1")

        manager.restart_kernel(now=now)

        hearing.ready(client, timeout=WAIT)
        assert execute(client, "kept")[0]["ename"] == "NameError"
    until(lambda: sum(code is None for code in codes(folder)) == 1)


@pytest.mark.jupyter
def test_the_kernels_end_is_the_launchers(plain: KernelManager) -> None:
    with client_of(plain) as client:
        client.execute("import os; os._exit(3)")
        until(lambda: not plain.is_alive())

    process = plain.provisioner.process  # type: ignore[union-attr]
    assert process.returncode == 3
    assert b"mlvm: the kernel in machine `box` ended with code 3\n" in process.stderr.read()
    process.stderr.close()


@pytest.mark.jupyter
def test_sigterm_ends_the_kernel(plain: KernelManager, folder: Path) -> None:
    with client_of(plain) as client:
        execute(client, "1")
        plain.signal_kernel(signal.SIGTERM)
        until(lambda: not plain.is_alive())

    assert None not in codes(folder)


FRONTEND = """\
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.jupyter
def test_a_frontend_that_dies_leaves_its_kernel(folder: Path) -> None:
    connection_file = folder / "connection.json"
    write_connection(connection_file)
    frontend = subprocess.Popen(
        [sys.executable, "-c", FRONTEND, sys.executable, str(LAUNCHER), str(folder), str(connection_file)],
        stdout=subprocess.PIPE,
    )
    assert frontend.stdout is not None
    launcher = int(frontend.stdout.readline())
    until(lambda: codes(folder) == [None])
    until(lambda: AgentGuest(folder).list_kernels()[0].get("busy") is not None)

    frontend.kill()
    frontend.wait()
    frontend.stdout.close()

    until(lambda: not Path(f"/proc/{launcher}").exists())
    assert codes(folder) == [None]


@pytest.mark.jupyter
def test_no_connection_to_the_kernel_itself_is_plain(plain: KernelManager, folder: Path) -> None:
    """The frontend's own ports are guarded by who connects; the ports behind them by keys."""
    with client_of(plain) as client:
        (told,) = AgentGuest(folder).list_kernels()
        eavesdropper = zmq.Context.instance().socket(zmq.SUB)
        eavesdropper.linger = 0
        eavesdropper.subscribe(b"")
        eavesdropper.connect(f"tcp://127.0.0.1:{told['ports']['iopub_port']}")
        try:
            execute(client, "print('secret')")
            assert eavesdropper.poll(1500) == 0
        finally:
            eavesdropper.close()


@pytest.mark.jupyter
@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_is_not_let_in(plain: KernelManager, folder: Path) -> None:
    with client_of(plain):
        code = (
            f"import os, socket\nos.setuid(65534)\ns = socket.socket()\ns.connect(('127.0.0.1', {plain.iopub_port}))\n"
            "print(s.recv(10))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)

    assert done.stdout == "b''\n" or "ConnectionReset" in done.stderr


def write_connection(path: Path, **other: object) -> None:
    names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    from fakes import free_ports

    content = {"ip": "127.0.0.1", "transport": "tcp", "key": "k", "signature_scheme": "hmac-sha256"}
    ports = free_ports()
    path.write_text(json.dumps({**content, **{name: ports[name] for name in names}, **other}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.write_text("{"), "is no connection file that can be served"),
        (lambda p: p.unlink(), "is no connection file that can be served"),
        (lambda p: write_connection(p, ip="0.0.0.0"), "reached by tcp on 127.0.0.1 and nowhere else"),
        (lambda p: write_connection(p, transport="ipc"), "asks for ipc://127.0.0.1"),
        (lambda p: write_connection(p, key=""), "holds no key, so anybody could run code in the kernel"),
    ],
)
def test_a_connection_that_cannot_be_served(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / "connection.json"
    write_connection(path)
    spoil(path)

    with pytest.raises(KernelError, match=message):
        standalone.read_connection(path)


TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2 1
   2: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 3 1
"""


def test_who_is_at_the_other_end() -> None:
    ours, theirs = ("127.0.0.1", 0x1F90), ("127.0.0.1", 0x9C40)

    assert relay.owner(ours, theirs, TABLE) == 1000
    assert relay.owner(ours, ("127.0.0.1", 1), TABLE) is None
