"""`%mlvm` and `%%mlvm`: machines, and single cells in them, from any notebook on an ordinary kernel.

A thin layer: words are the command line's, work is `mlvm.project`'s and the providers', a cell's way is `cells`'. What
is kept here is one kernel a machine, for as long as the notebook's own kernel lives.
"""

# IPython's decorators carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator, arg-type"

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from mlvm.errors import MachineError
from mlvm.machine import record as records
from mlvm.machine.provider import State
from mlvm.machine.record import Record
from mlvm.notebook.cells import CellKernel, Result
from mlvm.notebook.display import CellProgress, Table, show_errors_plainly
from mlvm.paths import Home

HELP = """\
%mlvm up [BOX] [--name NAME]   bring up a box's (or a project folder's) machine; makes whatever is missing
%mlvm status                   list machines
%mlvm stop NAME                shut a machine down; its files stay
%mlvm suspend NAME             save a machine's memory to disk; `up` goes on from there
%mlvm destroy NAME             remove a machine and everything in it
%%mlvm [NAME]                  run the cell in a kernel in the machine (last brought up, if not named)"""

VERBS = ("up", "status", "stop", "suspend", "destroy", "help")


@magics_class
class MlvmMagics(Magics):
    """The magics of one shell, and the kernels it has in machines."""

    shell: Any

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.current: str | None = None
        self.kernels: dict[str, CellKernel] = {}

    @magic_arguments()
    @argument("verb", nargs="?", choices=VERBS, default="help", help="what to do; `%%mlvm` alone explains")
    @argument("target", nargs="?", help="a box or a project folder for `up`, else the name of a machine")
    @argument("--name", help="name of the machine, when it is not the box's")
    @line_magic("mlvm")
    def line(self, line: str) -> object:
        """Bring machines up and down."""
        arguments = parse_argstring(self.line, line)
        verbs: dict[str, Callable[[Any], object]] = {"up": self._up, "status": self._status}
        if arguments.verb == "help":
            self.shell.display_pub.publish({"text/plain": HELP})
            return None
        return verbs.get(arguments.verb, self._down)(arguments)

    @magic_arguments()
    @argument("name", nargs="?", help="name of the machine; the one last brought up, if not given")
    @cell_magic("mlvm")
    def cell(self, line: str, cell: str) -> Result | None:
        """Run the cell in a machine."""
        name = parse_argstring(self.cell, line).name or self._only()
        return self._kernel(name).run(cell, self.shell)

    def close(self) -> None:
        """End every kernel of this shell; the machines stay."""
        while self.kernels:
            self.kernels.popitem()[1].close()

    def discard(self) -> None:
        """Kill every kernel of this shell while the interpreter exits."""
        while self.kernels:
            self.kernels.popitem()[1].discard()

    def _up(self, arguments: Any) -> None:
        from mlvm.project import Project  # noqa: PLC0415  (brings every room with it)

        project = Project.find(arguments.target, Path.cwd(), home=Home.find())
        title = f"mlvm up {arguments.target or project.folder}"
        with self._progress(title) as progress:
            record = project.up(arguments.name, observer=progress)
            progress.note(f"machine `{record.name}` is running; run a cell in it with %%mlvm")
        self.current = record.name

    def _status(self, _arguments: Any) -> Table:
        from mlvm.machine.table import provider_for  # noqa: PLC0415

        rows: list[tuple[str, ...]] = []
        for name in records.names(home := Home.find()):
            kernel = "yes" if name in self.kernels else ""
            try:
                record = _require(home, name)
            except MachineError as error:
                rows.append((name, State.BROKEN, kernel, "", error.message))
                continue
            condition = provider_for(record).state(record)
            rows.append((name, condition.state, kernel, record.project, "; ".join(condition.reasons)))
        header = ("machine", "state", "kernel here", "project", "")
        return Table(header, rows, empty="no machines; next: %mlvm up BOX")

    def _down(self, arguments: Any) -> None:
        from mlvm.machine.table import provider_for  # noqa: PLC0415

        verb, name = arguments.verb, arguments.target or arguments.name
        if name is None:
            raise MachineError(f"which machine shall I {verb}?", hint=f"%mlvm {verb} NAME, see %mlvm status")
        record = _require(Home.find(), name)
        if verb != "suspend" and (kernel := self.kernels.pop(name, None)):
            kernel.close()
        with self._progress(f"mlvm {verb} {name}") as progress:
            getattr(provider_for(record), verb)(record, observer=progress)
        if verb == "destroy" and self.current == name:
            self.current = None

    def _only(self) -> str:
        """Return the machine that a cell without a name means."""
        if self.current is not None:
            return self.current
        names = records.names(Home.find())
        if len(names) == 1:
            return names[0]
        known = ", ".join(f"`{name}`" for name in names) or "none"
        raise MachineError(
            "which machine shall the cell run in?",
            details=f"machines: {known}",
            hint="%mlvm up BOX first, or name one: %%mlvm NAME",
        )

    def _kernel(self, name: str) -> CellKernel:
        """Return the kernel of this shell in machine `name`, started now when there is none or it has died."""
        kernel = self.kernels.get(name)
        if kernel is not None and not kernel.alive():
            self.kernels.pop(name).close()
            kernel = None
        if kernel is None:
            record = _require(Home.find(), name)
            kernel = self.kernels[name] = CellKernel(Path(record.project), name)
        self.current = name
        return kernel

    def _progress(self, title: str) -> CellProgress:
        return CellProgress(title, live=getattr(self.shell, "kernel", None) is not None)


def register(shell: Any) -> None:
    """Give `shell` the magics, and errors of ours their plain form; called for `%load_ext mlvm`."""
    show_errors_plainly()
    magics = MlvmMagics(shell)
    shell.register_magics(magics)
    # A kernel in a machine is no child of this process: nobody else would end it with the notebook.
    atexit.register(magics.discard)


def _require(home: Home, name: str) -> Record:
    """Return a machine's record, or raise MachineError that names those there are."""
    if found := records.load(home, name):
        return found
    known = ", ".join(f"`{one}`" for one in records.names(home)) or "none"
    raise MachineError(f"there is no machine `{name}`", details=f"machines: {known}", hint="%mlvm up BOX")
