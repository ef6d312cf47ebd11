"""A frontend of `attach`: `loopback|guest attached|direct KERNEL`. A line of input is a question, its answer seconds.

cell CODE       a cell, from its request to its reply and idle
bulk MEGABYTES  a cell that prints so much
complete TEXT   the completions of a text
first-slider    a new slider is made, then moved once: until what it drives has printed
slider          the same slider is moved again
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client import BlockingKernelClient, KernelManager

PATIENCE = 300
TESTS = Path(__file__).parent.parent / "tests"
PAUSE = 0.1
BULK = "import sys; [sys.stdout.write('x' * 1_000_000) for _ in range({})]; None"
SLIDER = """\
import ipywidgets
slider = ipywidgets.IntSlider(max=1_000_000)
slider.observe(lambda change: print('moved', change.new), 'value')
slider"""

#: Makes a machine of a folder, in the process that starts kernels in it.
LOOPBACK = """\
import pathlib, sys
sys.path.insert(0, {tests!r})
from fakes import LoopbackProvider, write_record
from mlvm.kernel import launch
from mlvm.machine import table
from mlvm.machine.record import load
from mlvm.paths import Home
folder = pathlib.Path({folder!r})
provider = LoopbackProvider(folder / {name!r})
# The kernel's own ports: a relay in Python would be measured instead of ours.
provider.forward = lambda record, ports, host_ports=None: dict(ports)
provider.unforward = lambda record, ports: None
if load(Home.find(), {machine!r}) is None:
    write_record(Home.find(), {machine!r}, folder)
def open_machine(place, *, observer):
    record = load(place.home, place.machine)
    return record, provider, provider.start(record, None, observer=observer)
launch.open_machine = open_machine
table.provider_for = lambda record: provider
"""


class Frontend:
    """Asks as a notebook does and takes the time."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self.client = client
        self.slider = ""
        self.positions = itertools.count(1)

    def cell(self, code: str) -> float:
        """Run a cell."""
        began = time.monotonic()
        self.hear(self.client.execute(code))
        return time.monotonic() - began

    def hear(self, request: str) -> list[dict[str, Any]]:
        """Hear all that comes of a request; return it."""
        heard = []
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != request:
                continue
            heard.append(message)
            if message["msg_type"] == "error":
                raise SystemExit("\n".join(message["content"]["traceback"]))
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        while self.client.get_shell_msg(timeout=PATIENCE)["parent_header"].get("msg_id") != request:
            pass
        return heard

    def bulk(self, megabytes: str) -> float:
        """Print much; all of it must come."""
        began = time.monotonic()
        heard = self.hear(self.client.execute(BULK.format(megabytes)))
        took = time.monotonic() - began
        printed = sum(len(one["content"]["text"]) for one in heard if one["msg_type"] == "stream")
        if printed != int(megabytes) * 1_000_000:
            raise SystemExit(f"{printed} characters came of {megabytes} MB")
        return took

    def complete(self, text: str) -> float:
        """Ask for completions."""
        began = time.monotonic()
        request = self.client.complete(text)
        while self.client.get_shell_msg(timeout=PATIENCE)["parent_header"].get("msg_id") != request:
            pass
        return time.monotonic() - began

    def first_slider(self) -> float:
        """Make a slider and move it."""
        heard = self.hear(self.client.execute(SLIDER))
        opened = [one["content"] for one in heard if one["msg_type"] == "comm_open"]
        self.slider = next(
            one["comm_id"] for one in opened if one["data"]["state"].get("_model_name") == "IntSliderModel"
        )
        time.sleep(PAUSE)
        return self.move()

    def move(self) -> float:
        """Move the slider; wait for what it drives."""
        position = next(self.positions)
        data = {"method": "update", "state": {"value": position}, "buffer_paths": []}
        message = self.client.session.msg("comm_msg", {"comm_id": self.slider, "data": data})
        began = time.monotonic()
        self.client.shell_channel.send(message)
        text = f"moved {position}\n"
        while True:
            heard = self.client.get_iopub_msg(timeout=PATIENCE)
            if heard["msg_type"] == "stream" and heard["content"]["text"] == text:
                return time.monotonic() - began

    def answer(self, question: str) -> float:
        """Answer a line of input."""
        verb, _, rest = question.partition(" ")
        time.sleep(PAUSE)
        if verb == "first-slider":
            return self.first_slider()
        if verb == "slider":
            return self.move()
        found: float = {"cell": self.cell, "bulk": self.bulk, "complete": self.complete}[verb](rest)
        return found


@contextmanager
def manager_of(where: str, way: str, kernel: str) -> Iterator[KernelManager]:
    """Yield the manager whose kernel is asked: a local one, attached later, or one in the machine."""
    folder = Path(os.environ["BENCH_FOLDER"])
    if way == "attached":
        yield KernelManager(kernel_name="python3")
    elif where == "guest":
        yield KernelManager(kernel_name=kernel)
    else:
        from mlvm.kernel import kernelspec  # noqa: PLC0415

        names: dict[str, Any] = {}
        exec(LOOPBACK.format(tests=str(TESTS), folder=str(folder), name=way, machine=kernel), names)
        spec = kernelspec.document(kernel, folder, kernel)
        yield KernelManager(kernel_name=kernel, kernel_spec_manager=kernelspec.SingleSpec(spec))
        names["provider"].close()


def main(where: str, way: str, kernel: str) -> None:
    """Serve standard input."""
    with manager_of(where, way, kernel) as manager:
        manager.start_kernel()
        client = manager.blocking_client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=PATIENCE)
            frontend = Frontend(client)
            if way == "attached":
                if where == "loopback":
                    folder = os.environ["BENCH_FOLDER"]
                    frontend.cell(LOOPBACK.format(tests=str(TESTS), folder=folder, name=way, machine=kernel))
                frontend.cell("%load_ext mlvm")
                frontend.cell(f"%mlvm attach {kernel}")
            frontend.cell("1+1")
            frontend.complete("print")
            print(json.dumps("ready"), flush=True)
            for line in sys.stdin:
                print(json.dumps(frontend.answer(line.rstrip("\n"))), flush=True)
            if way == "attached":
                frontend.cell("%%local\nget_ipython().magics_manager.registry['MlvmMagics'].close()")
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


main(*sys.argv[1:])
