"""Vagrant, driven: python-vagrant makes the command lines and reads the answers; what runs them is ours.

Because python-vagrant throws away why something failed, shows no progress and cannot be interrupted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from mlvm import process
from mlvm.errors import MlvmError
from mlvm.events import Observer
from mlvm.machine.record import Record
from mlvm.machine.vagrant import layout, reasons, said
from mlvm.machine.vagrant.progress import Stages

# It complains when it is imported where there is no Vagrant; we do when one is needed.
logging.getLogger("vagrant").addHandler(logging.NullHandler())
import vagrant  # noqa: E402, TID251  (here and nowhere else)

#: Seconds that a question to Vagrant may take: it waits while another Vagrant boots a machine.
QUESTION = 120.0
#: What in a person's environment would lead Vagrant elsewhere.
_ASTRAY = ("VAGRANT_CWD", "VAGRANT_DOTFILE_PATH", "VAGRANT_VAGRANTFILE", "VAGRANT_FORCE_COLOR", "VAGRANT_LOG")


class Driven(vagrant.Vagrant):  # type: ignore[misc]
    """python-vagrant's commands and parsers, run through our own door: with progress, reasons and Ctrl-C."""

    def __init__(
        self, record: Record, observer: Observer, *, entered: Callable[[str], object] = lambda _: None
    ) -> None:
        """`entered` is told the name of each stage that a command comes to."""
        kept = {name: value for name, value in os.environ.items() if name not in _ASTRAY}
        self._record = record
        self._observer = observer
        self._entered = entered
        self._hypervisor = layout.hypervisor(record)
        more = {"VAGRANT_DEFAULT_PROVIDER": self._hypervisor, "VAGRANT_CHECKPOINT_DISABLE": "1"}
        super().__init__(root=str(layout.root(record)), env={**kept, **more})

    def _make_vagrant_command(self, args: Sequence[str | None]) -> list[str]:
        return [process.require_program("vagrant"), *(word for word in args if word is not None)]

    def _call_vagrant_command(self, args: Sequence[str | None]) -> None:
        """Run a command to its end, telling of its stages. Raises what `reasons` makes of a failure."""
        stages = Stages(self._observer, self._entered)
        command = self._make_vagrant_command(["--machine-readable", *args])
        code = process.follow(command, heard=stages.hear, env=self.env, cwd=layout.root(self._record))
        if code != 0:
            raise self._failed(args, stages.lines)
        stages.finish()

    def _run_vagrant_command(self, args: Sequence[str | None]) -> str:
        """Ask something and return the answer. Raises what `reasons` makes of a failure."""
        done = process.run(
            self._make_vagrant_command(args),
            env=self.env,
            cwd=layout.root(self._record),
            check=False,
            timeout=QUESTION,
        )
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            raise self._failed(args, [*text.splitlines(), *done.stderr.decode(errors="replace").splitlines()])
        return text

    def take_box(self, name: str, digest: str) -> None:
        """Add the box that lies ready, if Vagrant finds the digest that it must have."""
        box = layout.box_file(self._record)
        self._call_vagrant_command(
            ["box", "add", "--force", "--name", name, "--provider", self._hypervisor,
             "--checksum-type", "sha256", "--checksum", digest, f"file://{box}"]
        )  # fmt: skip

    def state_word(self) -> str:
        """Return Vagrant's word for the machine's state."""
        return next((str(one.state) for one in self.status() if one.name == layout.MACHINE), "unknown")

    def _failed(self, args: Sequence[str | None], lines: Sequence[str]) -> MlvmError:
        verb = " ".join(word for word in args[:2] if word and not word.startswith("-"))
        return reasons.explained(
            said.failure(lines), name=self._record.name, hypervisor=self._hypervisor, verb=verb
        )
