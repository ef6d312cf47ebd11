"""A machine that Vagrant runs, for tests that bring it up for real."""

from __future__ import annotations

from dataclasses import dataclass, field

from fakes import TapeObserver

from mlvm.machine.provider import State
from mlvm.machine.record import Record
from mlvm.machine.vagrant.provider import VagrantProvider
from mlvm.project import Project


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A machine, and what it needs to be started again."""

    project: Project
    record: Record
    provider: VagrantProvider
    stages: list[str] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self.provider.state(self.record).state

    def up(self) -> TapeObserver:
        tape = TapeObserver()
        self.project.up(self.record.name, frozen=True, observer=tape)
        return tape

    def says(self, *command: str) -> str:
        done = self.provider.guest(self.record).run(command, timeout=120)
        assert done.code == 0, done.stderr
        return done.stdout.decode().strip()
