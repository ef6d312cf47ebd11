"""What attaching a notebook costs: the same kernel in the same machine, reached directly and through a local kernel.

Ours is a notebook on an ordinary local ipykernel that is attached; the baseline is Jupyter's manager with our
provisioner, a frontend on the guest's own kernel. Everything is measured twice: in an emulated guest, which is what
people have, and in a loopback "machine" (a kernel on this host behind forwarded ports), where the guest's own work is
small and nothing hides what the relay costs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.bench import Bench, environment
from benchmarks.measures import Bar, Measure, Series
from mlvm import process
from mlvm.image.store import Store

MACHINE = KERNEL = "bench-attach"
BIN = Path(sys.executable).parent
CLIENT = Path(__file__).parent / "attach_client.py"
#: Single questions after a pause, as a person asks them; a sample is the median of so many.
SINGLES = 7
SPEC = {
    "name": MACHINE,
    "debian": "bookworm",
    "python": "3.11",
    "packages": ["ipywidgets"],
    "machine": {"cpus": 2, "memory": "1 GiB", "disk": "4 GiB"},
}

Ask = Callable[[str], float]

#: What is asked of both, and what was promised. A question's first word is a verb of the client.
QUESTIONS: dict[str, tuple[str, str, Bar | None]] = {
    "1+1": ("cell 1+1", "ms", None),
    "50 MB printed": ("bulk 50", "s", Bar(of="ratio", limit=1.3)),
    "completion": ("complete print", "ms", Bar(of="ratio", limit=1.3)),
    "first move of a slider": ("first-slider", "ms", Bar(of="ratio", limit=1.3)),
    "later moves of a slider": ("slider", "ms", Bar(of="ratio", limit=1.3)),
}
#: Milliseconds that attaching may add to a cell.
ADDED = 5.0


def measure(bench: Bench) -> Sequence[Measure]:
    """Measure loopback first, then the emulated guest."""
    found: list[Measure] = []
    for where in ("loopback", "guest"):
        with ExitStack() as stack:
            variables = stack.enter_context(loopback(bench) if where == "loopback" else guest(bench))
            clients = {
                "attached": stack.enter_context(client([where, "attached"], variables)),
                "direct": stack.enter_context(client([where, "direct"], variables)),
            }
            for name, (question, unit, bar) in QUESTIONS.items():
                rounds = bench.rounds(
                    {who: lambda ask=ask, q=question: sample(ask, q) for who, ask in clients.items()}  # type: ignore[misc]
                )
                series = {who: Series(name=who, samples=tuple(found)) for who, found in rounds.items()}
                found.extend(compared(f"{where}: {name}", unit, series, bar))
    return found


def sample(ask: Ask, question: str) -> float:
    """Return one sample in the question's unit."""
    if question.startswith("bulk"):
        return ask(question)
    if question.startswith("first"):
        return 1000 * ask(question)
    return 1000 * median(ask(question) for _ in range(SINGLES))


def compared(name: str, unit: str, series: dict[str, Series], bar: Bar | None) -> Iterator[Measure]:
    """Return the comparison; for a cell also what attaching adds, in terms of what it may."""
    yield Measure(name=name, unit=unit, ours=series["attached"], baseline=series["direct"], bar=bar)
    if name.endswith("1+1"):
        pairs = zip(series["attached"].samples, series["direct"].samples, strict=True)
        yield Measure(
            name=f"{name}, added by attaching",
            unit=unit,
            ours=Series(name="attached - direct", samples=tuple(ours - theirs for ours, theirs in pairs)),
            baseline=series["direct"],
            bar=Bar(of="ours", limit=ADDED),
        )


@contextmanager
def loopback(bench: Bench) -> Iterator[dict[str, str]]:
    """Yield the variables of clients whose machine is a folder of this host."""
    home = bench.folder / "loopback"
    home.mkdir()
    yield environment(
        MLVM_HOME=home / "mlvm",
        JUPYTER_DATA_DIR=home / "jupyter",
        IPYTHONDIR=home / "ipython",
        BENCH_FOLDER=home,
    )


@contextmanager
def guest(bench: Bench) -> Iterator[dict[str, str]]:
    """Yield the variables of clients whose machine is a real one; it is destroyed at the end."""
    home = bench.folder / "home"
    project = bench.folder / "project"
    project.mkdir()
    (home / "cache/store").mkdir(parents=True)
    (home / "cache/store/blobs").symlink_to(Store(bench.home).blobs.folder.resolve())
    (project / "mlvm.yaml").write_text(json.dumps(SPEC))  # JSON is YAML
    variables = environment(
        MLVM_HOME=home, JUPYTER_DATA_DIR=home / "jupyter", IPYTHONDIR=home / "ipython", BENCH_FOLDER=project
    )
    mlvm = BIN / "mlvm"
    try:
        process.run([mlvm, "up", project, "--name", MACHINE], env=variables, timeout=3600)
        process.run(
            [mlvm, "kernel", "install", project, "--name", KERNEL, "--machine", MACHINE], env=variables
        )
        yield variables
    finally:
        process.run([mlvm, "destroy", "--yes", MACHINE], env=variables, timeout=300, check=False)


@contextmanager
def client(words: Sequence[str], variables: dict[str, str]) -> Iterator[Ask]:
    """Start a frontend and its kernel; yield what asks it for the seconds a question takes."""
    command: list[process.Argument] = [sys.executable, CLIENT, *words, KERNEL]
    with process.spawn(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        questions, answers = child.stdin, child.stdout

        def answer() -> Any:
            line = answers.readline()
            if not line:
                raise process.failed([str(part)[:60] for part in command], child.wait(), None)
            return json.loads(line)

        def ask(question: str) -> float:
            questions.write(f"{question}\n".encode())
            questions.flush()
            return float(answer())

        assert answer() == "ready"
        yield ask
        questions.close()
        child.wait(60)
