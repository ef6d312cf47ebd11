"""Machines whose guest is this host, and whose agent is the real one: for tests of kernels that outlive processes.

`agent(folder)` runs the agent; every process that calls `enter(folder)` then finds machine `box` running in it,
whether the process is a test, a launcher or a Jupyter server (`python -m agent_world FOLDER MODULE ARGUMENTS...`).
"""

from __future__ import annotations

import getpass
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from fakes import Relays

from mlvm.errors import MachineError
from mlvm.events import Observer
from mlvm.kernel import launch
from mlvm.machine import record as records
from mlvm.machine import table
from mlvm.machine.channel import AgentGuest
from mlvm.machine.provider import Condition, State
from mlvm.machine.record import Record
from mlvm.paths import Home

AGENT = Path(__file__).parents[1] / "mlvm" / "agent" / "main.py"
MACHINE = "box"


class World:
    """Where the agent of this process's machines is, and the ports that lead to it."""

    folder: Path
    relays: Relays | None = None


class AgentProvider:
    """Runs "machines" that are an agent on this host."""

    name = "agent"
    shares_folders = True

    def state(self, record: Record) -> Condition:
        try:
            AgentGuest(World.folder).ping()
        except MachineError:
            return Condition(state=State.STOPPED)
        return Condition(state=State.RUNNING)

    def guest(self, record: Record) -> AgentGuest:
        return AgentGuest(World.folder)

    def forward(
        self, record: Record, guest_ports: Mapping[str, int], *, host_ports: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        World.relays = World.relays or Relays()
        wanted = host_ports or {}
        return {name: World.relays.start(port, at=wanted.get(name, 0)) for name, port in guest_ports.items()}

    def unforward(self, record: Record, host_ports: Mapping[str, int]) -> None:
        for port in host_ports.values():
            if World.relays:
                World.relays.stop(port)


def enter(folder: Path) -> Record:
    """Let this process find its machine; return its record."""
    World.folder = folder
    table.PROVIDERS = MappingProxyType({"agent": "agent_world:AgentProvider"})  # type: ignore[misc]
    home = Home.find()
    found = records.load(home, MACHINE)
    if found is None:
        found = Record(
            name=MACHINE, provider="agent", image_id="0" * 64, project=str(folder / "project"), home=home
        )
        found.folder.mkdir(parents=True)
        records.save(found)

    def open_machine(place: launch.Place, *, observer: Observer) -> tuple[object, object, object]:
        provider = AgentProvider()
        return found, provider, provider.guest(found)

    launch.open_machine = open_machine  # type: ignore[assignment]
    return found


@contextmanager
def agent(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run an agent for the block."""
    world = {
        "sockets": folder,
        "user": getpass.getuser(),
        "python": sys.executable,
        "kernel-ip": "127.0.0.1",
        "kernels": folder / "kernels",
        "logs": folder / "logs",
    }
    options = [word for name, value in world.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen([sys.executable, "-I", str(AGENT), *options])
    deadline = time.monotonic() + 30
    while not (folder / "agent-7.sock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield process
    finally:
        for told in AgentGuest(folder).list_kernels() if process.poll() is None else []:
            if told["code"] is None:
                AgentGuest(folder).signal_kernel(told["kernel_id"], 9)
        process.terminate()
        process.wait()
        relays, World.relays = World.relays, None
        if relays:
            relays.close()


if __name__ == "__main__":
    import agent_world  # the one module that everybody else imports, too

    agent_world.enter(Path(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
