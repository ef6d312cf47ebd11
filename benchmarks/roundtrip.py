"""What the way into a machine costs a cell: a client on the host beside the same client inside the guest.

Ours is the whole way of a frontend: Jupyter's manager, our provisioner, encrypted sockets, ports forwarded to the
guest. The baseline is what it would be without us: manager and kernel side by side in the guest, not encrypted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from benchmarks.bench import Bench, environment
from benchmarks.measures import Bar, Measure, Series
from mlvm import process
from mlvm.errors import MachineError, ProgramError
from mlvm.image.store import Store
from mlvm.machine.qemu.run_record import load as run_of
from mlvm.machine.record import load as record_of
from mlvm.paths import Home

BOX = MACHINE = "python-3.11"
KERNEL = "bench"
BIN = Path(sys.executable).parent
CLIENT = Path(__file__).parent / "kernel_client.py"
GUEST_PYTHON = "/opt/mlvm/venv/bin/python"
HAS_ADDRESS = ("sh", "-c", "ip -4 -br addr show scope global | grep -q .")
MEGABYTE = "import sys; sys.stdout.write('x' * 1_000_000)"
FIFTY = "import sys; [sys.stdout.write('x' * 1_000_000) for _ in range(50)]; None"
#: Single cells after a pause, as a person runs them; each sample is the median of so many.
SINGLES, PAUSE = 5, 0.1
TIME = Bar(of="ratio", limit=1.1)
THROUGHPUT = Bar(of="ratio", limit=0.7, at_least=True)

Ask = Callable[[str, int, float], float]


def measure(bench: Bench) -> Sequence[Measure]:
    """Boot one machine, start all clients, let them take turns."""
    with ExitStack() as stack:
        home = stack.enter_context(machine(bench))
        record = record_of(Home(data=home / "data", cache=home / "cache", runtime=home), MACHINE)
        assert record is not None
        run = run_of(record)
        assert run is not None
        bench.notes.append(
            f"accelerator {run.accelerator}, {record.shape.cpus} CPUs, QEMU {run.qemu_version}"
        )
        variables = environment(
            MLVM_HOME=home, JUPYTER_DATA_DIR=home / "jupyter", IPYTHONDIR=home / "ipython"
        )
        text = CLIENT.read_text()
        inside: list[process.Argument] = [
            BIN / "mlvm",
            "run",
            MACHINE,
            "--",
            GUEST_PYTHON,
            "-u",
            "-c",
            text,
            "python3",
        ]
        clients = {
            "mlvm": stack.enter_context(client([sys.executable, CLIENT, KERNEL], variables)),
            "in the guest": stack.enter_context(client(inside, variables)),
            "in the guest, encrypted": stack.enter_context(client([*inside, "curve"], variables)),
        }
        samples = {}
        for what, question in QUESTIONS.items():
            try:
                samples[what] = bench.rounds(turns(clients, question))
            except (
                ProgramError
            ) as failed:  # a client that gave up has no kernel any more: what was measured counts
                bench.notes.append(f"{what}: not measured, and nothing after it: {failed.message}")
                bench.say(failed.details)
                break
    return [one for what, found in samples.items() for one in compared(what, found)]


def single(ask: Ask) -> float:
    """Return the milliseconds of one small cell."""
    return 1000 * median(ask("1+1", 1, PAUSE) for _ in range(SINGLES))


QUESTIONS: dict[str, Callable[[Ask], float]] = {
    "1+1, ms": single,
    "1 MB printed, ms": lambda ask: 1000 * ask(MEGABYTE, 1, PAUSE),
    "100 cells in a row, s": lambda ask: ask("1+1", 100, PAUSE),
    "50 MB printed, MB/s": lambda ask: 50 / ask(FIFTY, 1, PAUSE),
}


def turns(clients: dict[str, Ask], question: Callable[[Ask], float]) -> dict[str, Callable[[], float]]:
    """Return what each client does when it is its turn."""
    return {name: lambda ask=ask: question(ask) for name, ask in clients.items()}  # type: ignore[misc]


def compared(what: str, found: dict[str, list[float]]) -> Iterator[Measure]:
    """Return the measure with its bar, and the one that tells how much of it is encryption."""
    name, _, unit = what.partition(", ")
    series = {key: Series(name=key, samples=tuple(samples)) for key, samples in found.items()}
    bar = THROUGHPUT if unit == "MB/s" else TIME
    for baseline in ("in the guest", "in the guest, encrypted"):
        yield Measure(
            name=name,
            unit=unit,
            ours=series["mlvm"],
            baseline=series[baseline],
            bar=bar if baseline == "in the guest" else None,
        )


@contextmanager
def machine(bench: Bench) -> Iterator[Path]:
    """Yield a home with a running machine and a kernelspec for it; the machine is destroyed at the end."""
    home = bench.folder / "home"
    (home / "cache/store").mkdir(parents=True)
    (home / "cache/store/blobs").symlink_to(Store(bench.home).blobs.folder.resolve())
    variables = environment(MLVM_HOME=home, JUPYTER_DATA_DIR=home / "jupyter")
    mlvm = BIN / "mlvm"
    try:
        process.run([mlvm, "up", BOX, "--name", MACHINE, "--frozen"], env=variables, timeout=1800)
        process.run([mlvm, "kernel", "install", BOX, "--name", KERNEL, "--machine", MACHINE], env=variables)
        # On a busy host the agent answers before the guest has its address, and no kernel can start yet.
        _wait_for_address([mlvm, "run", MACHINE, "--", *HAS_ADDRESS], variables)
        yield home
    finally:
        process.run([mlvm, "destroy", "--yes", MACHINE], env=variables, timeout=300, check=False)


def _wait_for_address(command: Sequence[process.Argument], variables: dict[str, str]) -> None:
    for _ in range(60):
        if process.run(command, env=variables, timeout=300, check=False).returncode == 0:
            return
        time.sleep(1)
    raise MachineError("the guest has no address yet after a minute")


@contextmanager
def client(command: Sequence[process.Argument], variables: dict[str, str]) -> Iterator[Ask]:
    """Start a client and its kernel; yield what asks it: code, how many cells, and a pause give seconds."""
    with process.spawn(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        questions, answers = child.stdin, child.stdout

        def answer() -> object:
            line = answers.readline()
            if not line:
                raise process.failed([str(part)[:60] for part in command], child.wait(), None)
            return json.loads(line)

        def ask(code: str, cells: int, pause: float) -> float:
            questions.write(f"{pause} {cells} {code}\n".encode())
            questions.flush()
            told = answer()
            assert isinstance(told, dict)
            return float(told["seconds"])

        assert answer() == "ready"
        yield ask
        questions.close()
        child.wait(60)
