"""`mlvm status --watch`: the panel of a terminal.

On a terminal the picture is redrawn until `q`, Ctrl-C or the end of input; into a pipe or a file goes one block of
plain lines for every look, so that it can be followed and kept. Both show what `mlvm.machine.overview` has seen.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlvm.cli.kernel_counts import KernelCounts
from mlvm.machine.overview import KEPT, Figure, Figures, History, Seen, look
from mlvm.machine.provider import State
from mlvm.paths import Home
from mlvm.spec.document import GIB
from mlvm.terminal import printable, size, table

if TYPE_CHECKING:
    from rich.console import Group

BLOCKS = "▁▂▃▄▅▆▇█"
#: Characters of a sparkline.
WIDTH = 16
COLOURS = {
    State.RUNNING: "green",
    State.STARTING: "cyan",
    State.SUSPENDED: "yellow",
    State.STOPPED: "dim",
    State.ABSENT: "dim",
    State.BROKEN: "red",
}
HEADER = ("name", "state", "kernels", "cpu", "memory", "disk", "network")


def watch(home: Home, *, interval: float) -> int:
    """Show all machines again and again until somebody has seen enough."""
    history, kernels = History(), KernelCounts()
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        return _lines(home, history, kernels, interval)
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            seen = look(home)
            history.add(seen)
            kernels.look(seen)
            live.update(picture(seen, history, kernels), refresh=True)
            if _pressed(keys, max(0.2, began + interval - time.monotonic())):
                return 0


def spark(figure: Figure, *, now: float, top: float, width: int = WIDTH, span: float = KEPT) -> str:
    """Return the last `span` seconds as blocks, the highest of each slice; nothing where nothing is known."""
    slices = [-1.0] * width
    for taken, amount in figure.points:
        place = width - 1 - int((now - taken) / span * width)
        if 0 <= place < width:
            slices[place] = max(slices[place], amount)
    highest = max(top, *slices) or 1.0
    return "".join(" " if one < 0 else BLOCKS[min(7, int(8 * one / highest))] for one in slices)


def picture(seen: Sequence[Seen], history: History, kernels: KernelCounts) -> Group:
    """Return what a terminal shows; names are text and never markup."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    running = sum(one.condition.state is State.RUNNING for one in seen)
    title = Text.assemble(
        ("mlvm", "bold"), f"  {len(seen)} machines, {running} running   ", ("q ends", "dim")
    )
    if not seen:
        return Group(title, Text("no machines; next: mlvm up"))
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    for name in HEADER:
        made.add_column(name, overflow="ellipsis" if name == "name" else "fold")
    for one in seen:
        figures = [Text(f"{line}\n{said}" if line else said) for line, said in _figures(one, history)]
        for figure in figures:
            figure.highlight_regex(f"[{BLOCKS}]+", "cyan")
        state = one.condition.state
        who = Text(printable(one.name), style="bold")
        made.add_row(who, Text(state, style=COLOURS[state]), kernels.of(one.name), *figures)
    reasons = [
        Text(printable(f"{one.name}: {reason}"), style="dim")
        for one in seen
        for reason in one.condition.reasons
    ]
    return Group(title, made, *reasons)


def _figures(seen: Seen, history: History) -> Iterator[tuple[str, str]]:
    """Yield a sparkline and the latest amount of CPU, memory, disk and network."""
    if seen.record is None or seen.usage is None or seen.condition.state is not State.RUNNING:
        yield from (("", "-"),) * 4
        return
    shape, now = seen.record.shape, seen.usage.taken
    found: Figures = history.figures(seen.name)
    for figure, top, said in (
        (found.cpu, float(shape.cpus), _percent(found.cpu, shape.cpus)),
        (found.memory, float(shape.memory), _of_memory(found.memory, shape.memory)),
        (found.disk, 1e6, _rate(found.disk)),
        (found.network, 1e5, _rate(found.network)),
    ):
        yield spark(figure, now=now, top=top), said


def _lines(home: Home, history: History, kernels: KernelCounts, interval: float) -> int:
    """Write one block of lines a look, for whoever follows without a terminal, until it is cut off."""
    while True:
        seen = look(home)
        history.add(seen)
        kernels.look(seen)
        rows = [
            (
                one.name,
                str(one.condition.state),
                kernels.of(one.name),
                *(said for _, said in _figures(one, history)),
            )
            for one in seen
        ]
        print(time.strftime("%Y-%m-%d %H:%M:%S"))
        print(table(rows, header=HEADER) if rows else "no machines; next: mlvm up", flush=True)
        print(flush=True)
        time.sleep(interval)


def _percent(figure: Figure, cpus: int) -> str:
    return "-" if figure.last is None else f"{100 * figure.last:.0f} % of {100 * cpus} %"


def _of_memory(figure: Figure, memory: int) -> str:
    return "-" if figure.last is None else f"{size(figure.last)} of {memory / GIB:g} GiB"


def _rate(figure: Figure) -> str:
    return "-" if figure.last is None else f"{size(figure.last)}/s"


@contextmanager
def _keys() -> Iterator[int]:
    """Let single keys be read, and put the terminal back afterwards."""
    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    try:
        tty.setcbreak(keys)
        yield keys
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


def _pressed(keys: int, seconds: float) -> bool:
    """Wait; tell whether somebody wants to end it."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([keys], [], [], left)[0]:
            typed = os.read(keys, 64)
            if not typed or b"q" in typed.lower() or b"\x04" in typed:
                return True
    return False
