"""`%mlvm` and `%%mlvm` in a real IPython shell; the cells run in real kernels."""

from __future__ import annotations

import builtins
import io
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import LoopbackProvider, write_record
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from mlvm import group
from mlvm.errors import KernelError, SpecError
from mlvm.events import Observer
from mlvm.kernel import launch
from mlvm.machine.provider import State
from mlvm.machine.record import Record
from mlvm.notebook.kernels import Kernels
from mlvm.paths import Home
from mlvm.project import Project

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Cell:
    """What running a cell gave: its text outputs, its displays, its value or error."""

    def __init__(self, shell: InteractiveShell, code: str) -> None:
        with capture_output() as captured:
            done = shell.run_cell(code)
        self.stdout: str = captured.stdout
        self.stderr: str = captured.stderr
        self.outputs: list[dict[str, Any]] = [output._repr_mimebundle_()[0] for output in captured.outputs]
        self.value: Any = done.result
        self.error = done.error_in_exec or done.error_before_exec


pytestmark = [pytest.mark.jupyter, pytest.mark.usefixtures("provider", "machine")]


def in_guest(shell: InteractiveShell, code: str) -> Cell:
    return Cell(shell, "%%mlvm box\n" + code)


def test_a_cell_runs_in_the_guest(shell: InteractiveShell, provider: LoopbackProvider) -> None:
    cell = in_guest(shell, "import os; print(os.getpid())")

    (child,) = provider.guests["box"].kernels.values()
    assert (cell.stdout, cell.stderr, cell.error) == (f"{child.pid}\n", "", None)


def test_the_kernel_is_kept(shell: InteractiveShell, provider: LoopbackProvider) -> None:
    in_guest(shell, "kept = 6")

    cell = in_guest(shell, "print(kept * 7)")

    assert cell.stdout == "42\n"
    assert len(provider.guests["box"].kernels) == 1


def test_streams_are_told_apart(shell: InteractiveShell) -> None:
    cell = in_guest(shell, "import sys; print('out'); print('err', file=sys.stderr)")

    assert (cell.stdout, cell.stderr) == ("out\n", "err\n")


def test_outputs_keep_their_order(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    class Tape(io.StringIO):
        def write(self, text: str) -> int:
            heard.extend(text.split())
            return len(text)

    monkeypatch.setattr(sys, "stdout", Tape())
    monkeypatch.setattr(shell.display_pub, "publish", lambda *_, **__: heard.append("display"))

    shell.run_cell("%%mlvm box\nfor i in range(3):\n    print(i, flush=True); display(i)")

    assert heard == ["0", "display", "1", "display", "2", "display"]


def test_the_value_is_the_cells_value(shell: InteractiveShell) -> None:
    cell = in_guest(shell, "import html\nclass T:\n    def _repr_html_(self): return '<b>t</b>'\nT()")

    data, _ = cell.value._repr_mimebundle_()
    assert data["text/html"] == "<b>t</b>"
    assert repr(cell.value).startswith("<__main__.T")


def test_a_semicolon_hides_the_value(shell: InteractiveShell) -> None:
    assert in_guest(shell, "1 + 1;").value is None


def test_images_are_displayed(shell: InteractiveShell) -> None:
    cell = in_guest(
        shell,
        f"import base64\nfrom IPython.display import Image, display\ndisplay(Image(base64.b64decode('{PNG}')))",
    )

    assert [output["image/png"].strip() for output in cell.outputs] == [PNG]


def test_a_display_is_updated(shell: InteractiveShell) -> None:
    published: list[tuple[str, Any, bool]] = []

    def publish(
        data: Any, metadata: Any = None, *, transient: Any = None, update: bool = False, **_: Any
    ) -> None:
        published.append((data["text/plain"], (transient or {}).get("display_id"), update))

    original, shell.display_pub.publish = shell.display_pub.publish, publish
    try:
        shell.run_cell("%%mlvm box\nhandle = display('a', display_id='one')\nhandle.update('b')")
    finally:
        shell.display_pub.publish = original

    assert published == [("'a'", "one", False), ("'b'", "one", True)]


def test_clear_output(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[bool] = []
    monkeypatch.setattr(shell.display_pub, "clear_output", lambda wait=False: cleared.append(wait))

    shell.run_cell("%%mlvm box\nfrom IPython.display import clear_output; clear_output(wait=True)")

    assert cleared == [True]


def test_an_error_has_the_guests_traceback(shell: InteractiveShell) -> None:
    cell = in_guest(shell, "def fail():\n    return 1 / 0\n\nfail()")

    assert type(cell.error).__name__ == "ZeroDivisionError"
    assert str(cell.error) == "division by zero"
    assert "return 1 / 0" in re.sub(r"\x1b\[[0-9;]*m", "", cell.stdout)
    assert "cells.py" not in cell.stdout


def test_after_an_error_the_next_cell_runs(shell: InteractiveShell) -> None:
    in_guest(shell, "1 / 0")

    assert in_guest(shell, "print('on')").stdout == "on\n"


def test_input_is_asked_of_the_person(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "input", lambda prompt: prompt.upper() + "Ada")

    assert in_guest(shell, "print(input('who? '))").stdout == "WHO? Ada\n"


def test_help_of_the_guest_is_shown(shell: InteractiveShell) -> None:
    cell = in_guest(shell, "len?")

    assert (
        any("number of items" in output["text/plain"] for output in cell.outputs)
        or "number of items" in cell.stdout
    )


def test_an_interrupt_reaches_the_guest(shell: InteractiveShell, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    in_guest(shell, "import pathlib, time")

    def interrupt() -> None:
        deadline = time.monotonic() + 240
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    began = time.monotonic()
    sleep = f"    pathlib.Path({str(begun)!r}).touch()\n    time.sleep(600)"
    cell = in_guest(shell, f"try:\n{sleep}\nfinally:\n    print('tidied up')")

    assert time.monotonic() - began < 300
    assert type(cell.error).__name__ == "KeyboardInterrupt"
    assert "tidied up\n" in cell.stdout
    assert in_guest(shell, "print('on')").stdout == "on\n"


def test_a_dead_kernel_is_told_and_replaced(shell: InteractiveShell) -> None:
    cell = in_guest(shell, "import os; os._exit(5)")

    assert isinstance(cell.error, KernelError)
    assert re.fullmatch(
        r"error: the kernel in machine `box` died (under|at about the time) the cell.* \(outcome unknown\)\n"
        r"  the kernel in machine `box` ended with code 5\n"
        r"hint: the cell may have run in part: look at what it changes before running it again\n",
        cell.stdout,
    )
    assert in_guest(shell, "print('new')").stdout == "new\n"


def test_an_error_of_ours_has_no_traceback(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    def unbuilt(place: launch.Place, *, observer: Observer) -> None:
        raise KernelError("not built", details="one\ntwo", hint="mlvm up box")

    monkeypatch.setattr(launch, "open_machine", unbuilt)

    assert in_guest(shell, "1").stdout == "error: not built\n  one\n  two\nhint: mlvm up box\n"


def test_large_output_arrives_whole(shell: InteractiveShell) -> None:
    cell = in_guest(shell, "for _ in range(5 * 1024): print('x' * 1023)")

    assert len(cell.stdout) == 5 * 1024 * 1024


def test_the_only_machine_needs_no_name(shell: InteractiveShell) -> None:
    assert Cell(shell, "%%mlvm\nprint(1)").stdout == "1\n"


def test_several_machines_need_a_name(shell: InteractiveShell, home: Home, tmp_path: Path) -> None:
    write_record(home, "other", tmp_path)

    assert Cell(shell, "%%mlvm\nprint(1)").stdout == (
        "error: which machine shall the cell run in?\n"
        "  machines: `box`, `other`\n"
        "hint: %mlvm up BOX first, or name one: %%mlvm NAME\n"
    )


def test_an_unknown_machine(shell: InteractiveShell) -> None:
    assert Cell(shell, "%%mlvm nowhere\n1").stdout == (
        "error: there is no machine `nowhere`\n  machines: `box`\nhint: %mlvm up BOX\n"
    )


def test_up_then_a_cell(
    shell: InteractiveShell,
    provider: LoopbackProvider,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`%mlvm up` asks the project; the machine it answers with is the one that cells mean."""
    asked: list[object] = []

    def find(target: str | None, cwd: Path, *, home: Home) -> Project:
        asked.append(target)
        return Project(folder=tmp_path, home=home)

    def up(
        project: Project, name: str | None, *, frozen: bool, here: Path, observer: Observer
    ) -> list[Record]:
        assert not frozen
        asked.append(name)
        observer.stage_started("build", "system")
        observer.stage_finished("build", 1.5, "4 layers")
        return [write_record(home, name or "mine", tmp_path)]

    monkeypatch.setattr(Project, "find", find)
    monkeypatch.setattr(group, "up", up)

    shown = Cell(shell, "%mlvm up sklearn --name mine").outputs
    cell = Cell(shell, "%%mlvm\nprint('here')")

    assert asked == ["sklearn", "mine"]
    assert shown[-1]["text/plain"] == (
        "mlvm up sklearn\n"
        "  ✓ build           1.5 s  4 layers\n"
        "  machine `mine` is running; run a cell in it with %%mlvm"
    )
    assert cell.stdout == "here\n"
    assert list(provider.guests) == ["mine"]


def test_up_shows_errors_plainly(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(target: str | None, cwd: Path, *, home: Home) -> Project:
        raise SpecError("there is no box called `x`", hint="for a folder write it as a path: `./x`")

    monkeypatch.setattr(Project, "find", find)

    assert Cell(shell, "%mlvm up x").stdout == (
        "error: there is no box called `x`\nhint: for a folder write it as a path: `./x`\n"
    )


def test_status(shell: InteractiveShell, machine: Record) -> None:
    in_guest(shell, "1")

    cell = Cell(shell, "%mlvm status")

    assert repr(cell.value).splitlines()[1].split() == ["box", "running", "yes", machine.project]
    assert "<td>running</td>" in cell.value._repr_html_()


def test_a_broken_record_is_a_row(shell: InteractiveShell, machine: Record) -> None:
    (machine.folder / "machine.json").write_text("{")

    assert "broken" in repr(Cell(shell, "%mlvm status").value)


def test_stop_ends_the_kernel_too(shell: InteractiveShell, provider: LoopbackProvider) -> None:
    in_guest(shell, "1")
    (child,) = provider.guests["box"].kernels.values()

    cell = Cell(shell, "%mlvm stop box")

    assert cell.error is None
    assert child.poll() is not None
    assert provider.states["box"] is State.STOPPED


def test_suspend_keeps_the_kernel(shell: InteractiveShell, provider: LoopbackProvider) -> None:
    in_guest(shell, "kept = 1")

    Cell(shell, "%mlvm suspend box")

    assert provider.states["box"] is State.SUSPENDED
    assert shell.magics_manager.registry["MlvmMagics"].kernels.living("box") is not None


def test_stop_needs_a_name(shell: InteractiveShell) -> None:
    assert Cell(shell, "%mlvm stop").stdout == (
        "error: which machine shall I stop?\nhint: %mlvm stop NAME, see %mlvm status\n"
    )


def test_help(shell: InteractiveShell) -> None:
    (shown,) = Cell(shell, "%mlvm help").outputs

    assert shown["text/plain"].startswith("%mlvm   ")
    assert "%mlvm up [BOX] [--name NAME]" in shown["text/plain"]


def test_alone_it_is_a_panel(shell: InteractiveShell, machine: Record) -> None:
    """In a console it is a picture of one moment, and nothing goes on looking."""
    cell = Cell(shell, "%mlvm")

    assert repr(cell.value).splitlines()[1] == f"box      stopped  000000000000  {machine.project}"
    assert not any(thread.name == "mlvm-watch" for thread in threading.enumerate())


def test_snapshot(shell: InteractiveShell, provider: LoopbackProvider) -> None:
    (shown,) = Cell(shell, "%mlvm snapshot box before").outputs

    assert provider.taken == [("box", "before")]
    assert "machine `box` is kept as `before`, and goes on running" in shown["text/plain"]


def test_restore_wants_a_name(shell: InteractiveShell, provider: LoopbackProvider) -> None:
    Cell(shell, "%mlvm snapshot box before")

    assert Cell(shell, "%mlvm restore box").stdout == (
        "error: which snapshot?\n  snapshots: `before`\nhint: %mlvm restore box SNAPSHOT\n"
    )


def test_a_wrong_verb_is_a_usage_error(shell: InteractiveShell) -> None:
    cell = Cell(shell, "%mlvm fly")

    assert type(cell.error).__name__ == "UsageError"
    assert "invalid choice: 'fly'" in cell.stderr


def test_closing_ends_the_kernels(shell: InteractiveShell, provider: LoopbackProvider) -> None:
    in_guest(shell, "1")
    (child,) = provider.guests["box"].kernels.values()

    shell.magics_manager.registry["MlvmMagics"].close()

    assert child.poll() == 0
    assert provider.states["box"] is State.RUNNING


def test_a_kernel_that_cannot_start_leaves_nothing(
    shell: InteractiveShell, provider: LoopbackProvider, machine: Record
) -> None:
    guest = provider.start(machine, None, observer=Observer())
    guest.kernel_command = ["sh", "-c", "exit 1"]

    with pytest.raises(
        KernelError, match=r"^the kernel in machine `box` ended with code 1, before it answered$"
    ):
        Kernels(shell).start("box", Path(machine.project))

    assert provider.relays.servers == {}
