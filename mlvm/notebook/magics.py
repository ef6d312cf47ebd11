"""`%mlvm` and `%%mlvm`: machines, and cells in them, from any notebook on an ordinary kernel.

A thin layer: words are the command line's, work is `mlvm.project`'s and the providers', kernels and the cells that run
in them are `kernels`'s, variables that cross are `luggage`'s.
"""

# IPython's decorators carry no types.
# mypy: disable-error-code="no-untyped-call, untyped-decorator, arg-type"

from __future__ import annotations

import atexit
from collections.abc import Callable
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from mlvm.errors import KernelError, MachineError
from mlvm.events import stage
from mlvm.machine import record as records
from mlvm.machine.provider import State
from mlvm.machine.record import Record
from mlvm.notebook import cells
from mlvm.notebook.attach import without_local_mark
from mlvm.notebook.cells import Result
from mlvm.notebook.display import CellProgress, Table, show_errors_plainly
from mlvm.notebook.guest_kernel import GuestKernel
from mlvm.notebook.kernels import Kernels
from mlvm.paths import Home

HELP = """\
%mlvm                          a panel of all machines, live, with buttons
%mlvm up [BOX] [--name NAME]   bring up a box's (or a project folder's) machine; makes whatever is missing. The cells
                               that follow run in it. Without BOX: the project here, else the lock in this notebook
                               (`--from NOTEBOOK`: in that one)
%mlvm attach NAME              run the cells that follow in a machine that runs already; or, with the beginning of an id
                               that `mlvm kernel list` shows, in a kernel that lives there, and show what it has said
%mlvm detach                   run the cells that follow on the host again
%mlvm push NAME...             copy variables of the host into the machine
%mlvm pull NAME...             copy variables of the machine to the host
%mlvm switch [BOX]             let the notebook's own kernel be one in the machine
%mlvm status                   list machines
%mlvm stop NAME                shut a machine down; its files stay (`down` is the same word)
%mlvm snapshot NAME [SNAPSHOT] keep a running machine as it is now, memory and disk
%mlvm restore NAME SNAPSHOT    go back to a snapshot; what has happened since is lost
%mlvm suspend NAME             save a machine's memory to disk; `up` goes on from there
%mlvm destroy NAME             remove a machine and everything in it
%%mlvm [NAME]                  run the cell in a kernel in the machine (last brought up, if not named)
%%local                        run the cell on the host, while the others run in the machine"""

#: Verb -> method; the line's arguments are its own.
VERBS = {
    "panel": "_panel",
    "up": "_up",
    "attach": "_attach",
    "detach": "_detach",
    "push": "_push",
    "pull": "_pull",
    "switch": "_switch",
    "status": "_status",
    "stop": "_down",
    "down": "_down",
    "suspend": "_down",
    "snapshot": "_snapshot",
    "restore": "_snapshot",
    "destroy": "_down",
    "help": "_help",
}

#: How many names a verb takes at most, where that is not one.
MOST_WORDS = {"snapshot": 2, "restore": 2, "push": 1000, "pull": 1000}

#: How much of a kernel's id is enough to be taken for one.
SHORTEST_ID = 4
#: Said of a kernel that is gone on with.
BUSY = "the kernel still runs the cell before; the next cell waits for it, and shows what it has said"


@magics_class
class MlvmMagics(Magics):
    """The magics of one shell, and the kernels it has in machines."""

    shell: Any

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.current: str | None = None
        self.kernels = Kernels(shell)

    @magic_arguments()
    @argument(
        "verb",
        nargs="?",
        choices=tuple(VERBS),
        default="panel",
        help="what to do; `%%mlvm` alone shows a panel, `%%mlvm help` explains",
    )
    @argument(
        "words", nargs="*", help="a box or a project folder for `up`; names of variables, or of a machine"
    )
    @argument("--name", help="name of the machine, when it is not the box's")
    @argument("--from", dest="notebook", metavar="NOTEBOOK", help="`up` alone: the box whose lock is in it")
    @argument("--no-attach", action="store_true", help="`up` alone: cells go on running on the host")
    @argument("--no-marks", action="store_true", help="say nothing below cells of where they ran")
    @argument("--limit", default="1 GiB", help="`push` and `pull` refuse more (default: 1 GiB)")
    @argument("--trust", action="store_true", help="`pull` what can run code here when it is unpacked")
    @line_magic("mlvm")
    def line(self, line: str) -> object:
        """Bring machines up and down, and cells into them."""
        arguments = parse_argstring(self.line, line)
        most = MOST_WORDS.get(arguments.verb, 1)
        if len(arguments.words) > most:
            raise UsageError(
                f"%mlvm {arguments.verb} takes {most} name{'s' * (most > 1)}, not {len(arguments.words)}"
            )
        arguments.target = arguments.words[0] if arguments.words else None
        verb: Callable[[Any], object] = getattr(self, VERBS[arguments.verb])
        return verb(arguments)

    @magic_arguments()
    @argument("name", nargs="?", help="name of the machine; the one last brought up, if not given")
    @cell_magic("mlvm")
    def cell(self, line: str, cell: str) -> Result | None:
        """Run the cell in a machine."""
        name = parse_argstring(self.cell, line).name or self._only()
        return self.kernels.run(self._kernel(name), cell)

    def close(self) -> None:
        """End every kernel of this shell; the machines stay."""
        self.kernels.close()

    def discard(self) -> None:
        """Kill every kernel of this shell while the interpreter exits."""
        self.kernels.discard()

    def _help(self, _arguments: Any) -> None:
        self.shell.display_pub.publish({"text/plain": HELP})

    def _up(self, arguments: Any) -> None:
        from mlvm import group  # noqa: PLC0415  (brings every room with it)
        from mlvm.notebook import own  # noqa: PLC0415

        project, carried, notes = own.project_for(arguments.target, arguments.notebook, self.shell)
        title = f"mlvm up {arguments.target or project.folder}"
        attach = self.kernels.can_attach and not arguments.no_attach
        if attach:
            self.kernels.require_own_cell(self._code())
        with self._progress(title) as progress:
            for note in notes:
                progress.note(note)
            records = group.up(project, arguments.name, frozen=carried, here=Path.cwd(), observer=progress)
            self.current = records[-1].name
            if attach:
                self._attach_to(self.current, arguments, progress)
            else:
                for record in records:
                    progress.note(f"machine `{record.name}` is running; run a cell in it with %%mlvm")

    def _panel(self, _arguments: Any) -> object:
        from mlvm.notebook.panel import panel  # noqa: PLC0415  (ipywidgets are slow to import)

        return panel()

    def _snapshot(self, arguments: Any) -> None:
        from mlvm.machine.table import provider_for  # noqa: PLC0415
        from mlvm.notebook import actions  # noqa: PLC0415

        record = _require(Home.find(), arguments.target or self._only())
        provider = provider_for(record)
        snapshot = arguments.words[1] if len(arguments.words) > 1 else None
        if arguments.verb == "restore" and not snapshot:
            hint = f"%mlvm restore {record.name} SNAPSHOT"
            raise MachineError("which snapshot?", details=actions.listed(record, provider), hint=hint)
        with self._progress(f"mlvm {arguments.verb} {record.name}") as progress:
            getattr(actions, arguments.verb)(record, provider, progress, snapshot)

    def _attach(self, arguments: Any) -> None:
        name = arguments.target or arguments.name or self._only()
        self.kernels.require_can_attach()
        self.kernels.require_own_cell(self._code())
        machine, adopt = self._machine_or_kernel(name)
        with self._progress(f"mlvm attach {name}") as progress:
            self._attach_to(machine, arguments, progress, adopt=adopt)

    def _machine_or_kernel(self, name: str) -> tuple[str, str]:
        """Return the machine called `name`; or, if that is the beginning of a kernel's id, its machine and the id."""
        from mlvm.kernel import registry  # noqa: PLC0415

        home = Home.find()
        if records.load(home, name) is None and len(name) >= SHORTEST_ID:
            for known in registry.everywhere(home):
                if known.kernel_id.startswith(name):
                    self._require_no_kernel(known.machine)
                    return known.machine, registry.find(home, name)[3].kernel_id
        return _require(home, name).name, ""

    def _require_no_kernel(self, machine: str) -> None:
        if self.kernels.living(machine) is not None:
            raise KernelError(
                f"this notebook has a kernel in machine `{machine}` already",
                hint="attach from another notebook, or restart this notebook's kernel first: that ends it",
            )

    def _attach_to(self, name: str, arguments: Any, progress: CellProgress, *, adopt: str = "") -> None:
        with stage(progress, "kernel", f"in machine `{name}`"):
            kernel = self._kernel(name, adopt=adopt)
        self.kernels.attach(kernel, marks=not arguments.no_marks)
        progress.note(
            f"the cells that follow run in machine `{name}`, until %mlvm detach; %%local runs one here"
        )

    def _detach(self, _arguments: Any) -> None:
        name = self.kernels.detach()
        said = f"the cells that follow run on the host; %mlvm attach {name} returns to the machine"
        self.shell.display_pub.publish({"text/plain": said if name else "cells run on the host already"})

    def _push(self, arguments: Any) -> Table:
        return self._luggage("push", arguments)

    def _pull(self, arguments: Any) -> Table:
        return self._luggage("pull", arguments)

    def _luggage(self, verb: str, arguments: Any) -> Table:
        from mlvm.notebook import luggage  # noqa: PLC0415

        if not arguments.words:
            raise UsageError(f"%mlvm {verb} NAME...: which variables?")
        kernel = self._kernel(arguments.name or self.kernels.attached_to or self._only())
        limit = luggage.limit_of(arguments.limit)
        if verb == "push":
            rows = luggage.push(kernel, self.shell.user_ns, arguments.words, limit=limit)
        else:
            rows = luggage.pull(
                kernel, self.shell.user_ns, arguments.words, limit=limit, trust=arguments.trust
            )
        return Table(luggage.HEADER, rows, empty="")

    def _switch(self, arguments: Any) -> None:
        from mlvm.notebook import switch  # noqa: PLC0415
        from mlvm.project import Project  # noqa: PLC0415

        session = switch.find_session(self.shell)
        project = Project.find(arguments.target, Path.cwd(), home=Home.find())
        with self._progress(f"mlvm switch {arguments.target or project.folder}") as progress:
            record = project.up(arguments.name, observer=progress)
            kernel = switch.kernel_for(project, record.name)
            progress.note(f"this notebook's kernel becomes `{kernel}`; variables of the host are gone then")
        switch.after_this_cell(self.shell, session, kernel)

    def _status(self, _arguments: Any) -> Table:
        from mlvm.machine.table import provider_for  # noqa: PLC0415

        rows: list[tuple[str, ...]] = []
        for name in records.names(home := Home.find()):
            kernel = self.kernels.word_for(name)
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

        verb = "stop" if arguments.verb == "down" else arguments.verb
        name = arguments.target or arguments.name or self.kernels.attached_to
        if name is None:
            raise MachineError(f"which machine shall I {verb}?", hint=f"%mlvm {verb} NAME, see %mlvm status")
        record = _require(Home.find(), name)
        if verb != "suspend":
            self.kernels.end(name)
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

    def _kernel(self, name: str, *, adopt: str = "") -> GuestKernel:
        """Return the kernel of this shell in machine `name`, started now when there is none or it has died.

        One that is gone on with shows here what nobody has heard of it.
        """
        kernel = self.kernels.living(name)
        if kernel is None:
            kernel = self.kernels.start(name, Path(_require(Home.find(), name).project), adopt=adopt)
            if kernel.adopted:
                missed = kernel.take_missed()
                if missed is None:
                    self.shell.display_pub.publish({"text/plain": BUSY})
                else:
                    cells.show_missed(missed, self.shell)
        self.current = name
        return kernel

    def _code(self) -> str:
        """Return the text of the cell that runs; empty where that is not known."""
        kernel = getattr(self.shell, "kernel", None)
        parent = kernel.get_parent("shell") if kernel is not None else {}
        return str((parent.get("content") or {}).get("code", ""))

    def _progress(self, title: str) -> CellProgress:
        return CellProgress(title, live=getattr(self.shell, "kernel", None) is not None)


def register(shell: Any) -> None:
    """Give `shell` the magics, and errors of ours their plain form; called for `%load_ext mlvm`."""
    show_errors_plainly()
    magics = MlvmMagics(shell)
    shell.register_magics(magics)
    if without_local_mark not in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.append(without_local_mark)
    # A kernel in a machine is no child of this process: nobody else would end it with the notebook.
    atexit.register(magics.discard)


def _require(home: Home, name: str) -> Record:
    """Return a machine's record, or raise MachineError that names those there are."""
    if found := records.load(home, name):
        return found
    known = ", ".join(f"`{one}`" for one in records.names(home)) or "none"
    raise MachineError(f"there is no machine `{name}`", details=f"machines: {known}", hint="%mlvm up BOX")
