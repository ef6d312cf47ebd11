"""A kernel in a machine, driven as Jupyter drives every kernel."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hearing
import pytest
import zmq
from fakes import LoopbackProvider, loopback_record
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager

from mlvm.errors import GuestError, KernelError
from mlvm.events import SILENT, Observer
from mlvm.kernel import launch, provisioner
from mlvm.machine.provider import State
from mlvm.paths import Home

pytestmark = pytest.mark.jupyter

WAIT = 60


@contextmanager
def client_of(manager: KernelManager) -> Iterator[BlockingKernelClient]:
    """A connected client of a kernel that has answered."""
    client = manager.client()
    client.start_channels()
    try:
        hearing.ready(client, timeout=WAIT)
        yield client
    finally:
        client.stop_channels()


@pytest.fixture
def client(manager: KernelManager) -> Iterator[BlockingKernelClient]:
    manager.start_kernel()
    with client_of(manager) as made:
        yield made


def execute(client: BlockingKernelClient, code: str) -> tuple[dict[str, Any], str]:
    """Run `code`; return the reply's content and everything written to stdout."""
    written: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            written.append(message["content"]["text"])

    reply = client.execute_interactive(code, timeout=WAIT, output_hook=hear, stop_on_error=False)
    return reply["content"], "".join(written)


def until(condition: Any) -> None:
    """Wait for `condition` to be true."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_cell_runs_in_the_guest(client: BlockingKernelClient, provider: LoopbackProvider) -> None:
    reply, written = execute(client, "import os; print(os.getpid(), os.getcwd())")

    (child,) = provider.guests["box"].kernels.values()
    assert reply["status"] == "ok"
    assert written.split() == [str(child.pid), str(provider.guests["box"].root / "home")]


def test_nothing_of_the_hosts_environment_reaches_the_guest(
    manager: KernelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    assert manager.kernel_spec is not None
    manager.kernel_spec.env = {"WANTED": "${SECRET_TOKEN}!"}
    env = {**os.environ, "JPY_SESSION_NAME": "a.ipynb", "JPY_PARENT_PID": "1"}

    manager.start_kernel(env=env)

    with client_of(manager) as client:
        _, written = execute(client, "import os, json; print(json.dumps(dict(os.environ)))")
        seen = json.loads(written)
        assert (seen["WANTED"], seen["JPY_SESSION_NAME"]) == ("s3cret!", "a.ipynb")
        assert seen.keys().isdisjoint({"SECRET_TOKEN", "JPY_PARENT_PID", "MLVM_HOME", "JUPYTER_DATA_DIR"})


def test_interrupt(manager: KernelManager, client: BlockingKernelClient) -> None:
    message = client.execute("import time; print('go', flush=True); time.sleep(60)")
    while client.get_iopub_msg(timeout=WAIT)["msg_type"] != "stream":
        pass

    manager.interrupt_kernel()

    while (reply := client.get_shell_msg(timeout=WAIT))["parent_header"]["msg_id"] != message:
        pass
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert execute(client, "print(1)")[1] == "1\n"


@pytest.mark.parametrize("now", [False, True])
def test_restart_keeps_keys_and_ports(
    manager: KernelManager, client: BlockingKernelClient, now: bool
) -> None:
    execute(client, "kept = 1")
    before = manager.get_connection_info()
    connection_file = Path(manager.connection_file).read_text()

    manager.restart_kernel(now=now)

    hearing.ready(client, timeout=WAIT)
    reply, _ = execute(client, "kept")
    assert reply["ename"] == "NameError"
    assert manager.get_connection_info() == before
    assert Path(manager.connection_file).read_text() == connection_file


def test_restart_on_new_ports(manager: KernelManager, client: BlockingKernelClient) -> None:
    before = manager.get_connection_info()

    manager.restart_kernel(newports=True)

    after = manager.get_connection_info()
    assert before["shell_port"] != after["shell_port"]
    with client_of(manager) as second:
        assert execute(second, "print(2)")[1] == "2\n"


def test_only_a_first_start_may_claim_what_waits_in_a_fork(
    manager: KernelManager, client: BlockingKernelClient, provider: LoopbackProvider
) -> None:
    manager.restart_kernel(newports=True)

    assert provider.guests["box"].claims == ["", "new"]


def test_an_environment_may_say_what_is_claimed(manager: KernelManager, provider: LoopbackProvider) -> None:
    assert manager.kernel_spec is not None
    manager.kernel_spec.env = {"MLVM_CLAIM": "a.ipynb"}

    manager.start_kernel()

    assert provider.guests["box"].claims == ["a.ipynb"]


def test_shutdown_leaves_nothing_but_the_machine(
    manager: KernelManager,
    client: BlockingKernelClient,
    provider: LoopbackProvider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    connection_file = Path(manager.connection_file)
    (child,) = provider.guests["box"].kernels.values()

    manager.shutdown_kernel()

    assert child.poll() == 0
    assert caplog.records == []
    assert not manager.has_kernel
    assert not connection_file.exists()
    assert provider.relays.servers == {}
    assert provider.states["box"] is State.RUNNING


def test_a_kernel_that_ignores_the_request_is_killed(
    manager: KernelManager, client: BlockingKernelClient, provider: LoopbackProvider, tmp_path: Path
) -> None:
    execute(client, "import ctypes, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    deaf = tmp_path / "deaf"
    client.execute(f"open({str(deaf)!r}, 'x').close(); ctypes.PyDLL(None).sleep(600)")  # holds the GIL
    until(deaf.exists)
    (child,) = provider.guests["box"].kernels.values()

    manager.shutdown_kernel()

    assert child.poll() == -9


def test_death_is_noticed_and_the_reason_told(
    manager: KernelManager, client: BlockingKernelClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.execute("import os; os._exit(3)")

    until(lambda: not manager.is_alive())

    assert [record.getMessage() for record in caplog.records if "mlvm" in record.getMessage()] == [
        "mlvm: the kernel in machine `box` ended with code 3"
    ]


def test_the_last_words_of_a_crash_are_told(
    manager: KernelManager, client: BlockingKernelClient, caplog: pytest.LogCaptureFixture
) -> None:
    """What C code writes to the process's own stderr goes to the kernel's log, past ipykernel."""
    client.execute("import os, sys; os.write(sys.stderr._original_stdstream_copy, b'last words'); os.abort()")

    until(lambda: not manager.is_alive())

    assert "the kernel in machine `box` was killed by signal 6\nlast words" in caplog.text


def test_a_killed_kernel_is_told_apart(
    manager: KernelManager, client: BlockingKernelClient, caplog: pytest.LogCaptureFixture
) -> None:
    manager.signal_kernel(9)

    until(lambda: not manager.is_alive())

    assert "was killed by signal 9, perhaps for want of memory: the machine has 2048 MiB" in caplog.text


def test_large_output_arrives_whole(client: BlockingKernelClient) -> None:
    counted = 0
    last = ""

    def hear(message: dict[str, Any]) -> None:
        nonlocal counted, last
        if message["msg_type"] == "stream":
            counted += len(message["content"]["text"])
            last = message["content"]["text"][-5:]

    client.execute_interactive(
        "line = 'x' * 1023 + '\\n'\nfor _ in range(50 * 1024): print(line, end='')\nprint('end.')",
        timeout=120,
        output_hook=hear,
    )

    assert (counted, last) == (50 * 1024 * 1024 + 5, "end.\n")


def test_input_is_asked_for(client: BlockingKernelClient) -> None:
    asked: list[str] = []

    def answer(message: dict[str, Any]) -> None:
        asked.append(message["content"]["prompt"])
        client.input("Ada")

    written: list[str] = []
    client.execute_interactive(
        "print('hello', input('who? '))",
        timeout=WAIT,
        allow_stdin=True,
        stdin_hook=answer,
        output_hook=lambda m: written.append(m["content"].get("text", "")),
    )

    assert asked == ["who? "]
    assert "".join(written) == "hello Ada\n"


def test_two_kernels_share_a_machine(
    manager: KernelManager, client: BlockingKernelClient, kernel_name: str
) -> None:
    second = KernelManager(kernel_name=kernel_name)
    second.start_kernel()
    try:
        with client_of(second) as other:
            execute(client, "mine = 'first'")
            execute(other, "mine = 'second'")

            assert execute(client, "print(mine)")[1] == "first\n"
            assert execute(other, "print(mine)")[1] == "second\n"
            assert set(manager.ports).isdisjoint(second.ports)
    finally:
        second.shutdown_kernel(now=True)


def test_a_plain_text_client_hears_nothing(manager: KernelManager, client: BlockingKernelClient) -> None:
    """A process of the host that only knows the port, as after a port scan, must not read outputs."""
    eavesdropper = zmq.Context.instance().socket(zmq.SUB)
    eavesdropper.linger = 0
    eavesdropper.setsockopt(zmq.SUBSCRIBE, b"")
    eavesdropper.connect(f"tcp://127.0.0.1:{manager.iopub_port}")
    try:
        time.sleep(1)
        _, written = execute(client, "print('secret')")

        assert written == "secret\n"
        assert eavesdropper.poll(1500) == 0
    finally:
        eavesdropper.close()


def test_a_client_with_other_keys_hears_nothing(manager: KernelManager, client: BlockingKernelClient) -> None:
    public, secret = zmq.curve_keypair()
    eavesdropper = zmq.Context.instance().socket(zmq.SUB)
    eavesdropper.linger = 0
    eavesdropper.curve_publickey, eavesdropper.curve_secretkey = public, secret
    eavesdropper.curve_serverkey = public
    eavesdropper.setsockopt(zmq.SUBSCRIBE, b"")
    eavesdropper.connect(f"tcp://127.0.0.1:{manager.iopub_port}")
    try:
        time.sleep(1)
        execute(client, "print('secret')")

        assert eavesdropper.poll(1500) == 0
    finally:
        eavesdropper.close()


def test_the_connection_file_is_private(manager: KernelManager, client: BlockingKernelClient) -> None:
    info = json.loads(Path(manager.connection_file).read_text())

    assert Path(manager.connection_file).stat().st_mode & 0o777 == 0o600
    assert info["ip"] == "127.0.0.1"
    assert len(info["curve_secretkey"]) == 40


def test_required_encryption_is_met(provider: LoopbackProvider, kernel_name: str) -> None:
    manager = KernelManager(kernel_name=kernel_name, transport_encryption="required")
    manager.start_kernel()
    try:
        with client_of(manager) as client:
            assert execute(client, "print(1)")[1] == "1\n"
    finally:
        manager.shutdown_kernel(now=True)


def test_async_manager(provider: LoopbackProvider, kernel_name: str) -> None:
    async def drive() -> list[Any]:
        manager = AsyncKernelManager(kernel_name=kernel_name)
        await manager.start_kernel()
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=WAIT)
        first = await client.execute("1", reply=True, timeout=WAIT)
        await manager.restart_kernel()
        await client.wait_for_ready(timeout=WAIT)
        second = await client.execute("1", reply=True, timeout=WAIT)
        client.stop_channels()
        await manager.shutdown_kernel()
        return [first["content"]["status"], second["content"]["status"], await manager.is_alive()]

    assert asyncio.run(drive()) == ["ok", "ok", False]


def test_a_kernel_that_cannot_start_says_why(provider: LoopbackProvider, manager: KernelManager) -> None:
    guest = provider.start(loopback_record(Home.find(), "box"), None, observer=SILENT)
    guest.kernel_command = ["sh", "-c", "echo no module named ipykernel >&2; exit 1"]

    with pytest.raises(KernelError) as failed:
        manager.start_kernel()

    assert str(failed.value) == (
        "the kernel in machine `box` ended with code 1, before it answered\n"
        "no module named ipykernel\n"
        "hint: mlvm console box"
    )
    assert not manager.has_kernel
    assert provider.relays.servers == {}


def test_an_error_shows_all_its_parts(
    manager: KernelManager, monkeypatch: pytest.MonkeyPatch, provider: LoopbackProvider
) -> None:
    def unbuilt(place: launch.Place, *, observer: Observer) -> None:
        raise KernelError("not built", details="because", hint=place.up_command)

    monkeypatch.setattr(launch, "open_machine", unbuilt)

    with pytest.raises(KernelError) as failed:
        manager.start_kernel()

    project = manager.provisioner.project  # type: ignore[union-attr]
    assert str(failed.value) == f"not built\nbecause\nhint: mlvm up {project} --name box"


def test_a_long_boot_is_explained(
    manager: KernelManager,
    monkeypatch: pytest.MonkeyPatch,
    provider: LoopbackProvider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick = launch.open_machine

    def slow(place: launch.Place, *, observer: Observer) -> Any:
        observer.stage_started("guest kernel")
        time.sleep(0.5)
        return quick(place, observer=observer)

    monkeypatch.setattr(launch, "open_machine", slow)
    monkeypatch.setattr(provisioner, "EXPLAIN_AFTER", 0.1)

    manager.start_kernel()

    assert "is at stage `guest kernel`. Frontends may give up after 60 s" in caplog.text


def test_an_abandoned_start_leaves_no_kernel(
    provider: LoopbackProvider, kernel_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = launch.open_machine

    def slow(place: launch.Place, *, observer: Observer) -> Any:
        time.sleep(1)
        return quick(place, observer=observer)

    monkeypatch.setattr(launch, "open_machine", slow)

    async def give_up() -> None:
        manager = AsyncKernelManager(kernel_name=kernel_name)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(manager.start_kernel(), 0.5)

    asyncio.run(give_up())  # waits for its threads

    (child,) = provider.guests["box"].kernels.values()
    assert child.wait(10) == -9
    assert provider.relays.servers == {}


def test_a_late_answer_is_not_death(
    manager: KernelManager, client: BlockingKernelClient, provider: LoopbackProvider
) -> None:
    provider.guests["box"].silent = GuestError("the agent does not answer")

    alive = [manager.is_alive() for _ in range(5)]

    provider.guests["box"].silent = None
    assert alive == [True] * 5


def test_a_guest_that_forgot_the_kernel_has_lost_it(
    manager: KernelManager,
    client: BlockingKernelClient,
    provider: LoopbackProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provisioner, "TRUST", 0.0)
    (child,) = provider.guests["box"].kernels.values()
    provider.guests["box"].kernels.clear()

    alive = [manager.is_alive() for _ in range(launch.UNKNOWN_LIMIT)]

    child.kill()
    child.wait()
    assert alive == [True, True, False]


def test_a_suspended_machine_keeps_its_kernel(
    manager: KernelManager, client: BlockingKernelClient, provider: LoopbackProvider
) -> None:
    record = loopback_record(Home.find(), "box")
    execute(client, "kept = 41")
    ports = manager.ports

    provider.suspend(record, observer=SILENT)
    asleep = manager.is_alive()
    provider.start(record, None, observer=SILENT)
    awake = manager.is_alive()

    assert (asleep, awake, manager.ports) == (True, True, ports)
    hearing.ready(client, timeout=WAIT)
    assert execute(client, "print(kept + 1)")[1] == "42\n"


def test_a_restart_in_a_suspended_machine_resumes_it(
    manager: KernelManager, client: BlockingKernelClient, provider: LoopbackProvider
) -> None:
    (old,) = provider.guests["box"].kernels.values()
    provider.suspend(loopback_record(Home.find(), "box"), observer=SILENT)

    manager.restart_kernel()

    hearing.ready(client, timeout=WAIT)
    assert execute(client, "print(1)")[1] == "1\n"
    assert old.wait(10) == -9


def test_stopping_the_machine_ends_its_kernel(
    manager: KernelManager,
    client: BlockingKernelClient,
    provider: LoopbackProvider,
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider.stop(loopback_record(Home.find(), "box"), observer=SILENT)

    until(lambda: not manager.is_alive())
    assert "mlvm: machine `box` is stopped" in caplog.text


def test_the_restarter_does_not_start_a_stopped_machine(
    manager: KernelManager, client: BlockingKernelClient, provider: LoopbackProvider
) -> None:
    """What Jupyter's restarter does after a death must not undo `mlvm stop`; a person's restart may."""
    provider.stop(loopback_record(Home.find(), "box"), observer=SILENT)
    until(lambda: not manager.is_alive())

    with pytest.raises(
        KernelError, match=r"^machine `box` went away, and its kernel with it; restart the kernel"
    ):
        manager.restart_kernel(now=True)

    assert provider.states["box"] is State.STOPPED
    manager.restart_kernel()
    hearing.ready(client, timeout=WAIT)
    assert execute(client, "print(1)")[1] == "1\n"


def test_another_process_can_go_on(
    manager: KernelManager,
    client: BlockingKernelClient,
    provider: LoopbackProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert manager.provisioner is not None
    info = asyncio.run(manager.provisioner.get_provisioner_info())
    assert info["connection_info"] == manager.get_connection_info() | {"kernel_name": manager.kernel_name}
    record = loopback_record(Home.find(), "box")
    monkeypatch.setattr(
        launch,
        "reopen",
        lambda home, machine, process, *, ports: launch.LiveKernel(
            record, process, provider=provider, guest=provider.guest(record), ports=ports
        ),
    )
    second = provisioner.MlvmProvisioner(kernel_spec=manager.kernel_spec)

    async def go_on() -> tuple[int | None, bool]:
        await second.load_provisioner_info(info)
        alive = await second.poll()
        await second.kill()
        return alive, (await second.wait()) == -9

    assert asyncio.run(go_on()) == (None, True)
    until(lambda: not manager.is_alive())


def test_unix_sockets_are_refused(provider: LoopbackProvider, kernel_name: str) -> None:
    manager = KernelManager(kernel_name=kernel_name, transport="ipc")

    with pytest.raises(KernelError, match=r"^a kernel in a machine is reached by tcp, not `ipc`$"):
        manager.start_kernel()


def test_the_heartbeat_beats(manager: KernelManager, client: BlockingKernelClient) -> None:
    until(client.hb_channel.is_beating)


def test_nothing_is_left_on_iopub_after_idle(client: BlockingKernelClient) -> None:
    execute(client, "print(1)")

    with pytest.raises(queue.Empty):
        client.get_iopub_msg(timeout=0.3)
