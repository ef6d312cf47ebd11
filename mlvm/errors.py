"""Every error mlvm raises, in one tree.

A message says what is wrong and where; `details` carry what a person may need to see (the last console lines, a
program's own words); `hint` says what to do next. The library raises and never exits: the command line and the
notebook decide how an error is shown, and both show the same three parts.

    MlvmError
    |- SpecError          mlvm.yaml cannot be read as a spec (carries every complaint)
    |- LockError          mlvm.lock cannot be read, or is stale
    |- ResolveError       no lock can be made from this spec
    |- DownloadError      bytes could not be fetched
    |- DigestError        bytes are not what the lock says
    |- BuildError         an image step failed
    |- BoxError           a Vagrant box is not what it must be
    |- StoreError         the store cannot be used (full disk, wrong owner ...)
    |- ProgramError       a host program is missing or failed
    |- MachineError       a machine cannot do what was asked
    |  |- StageTimeout    a boot stage did not finish in time
    |  `- GuestError      something inside the guest failed
    `- KernelError        a Jupyter kernel could not be started or reached
       `- KernelDiedError  a kernel ended under a cell (carries whether the cell ran)
"""

from __future__ import annotations

from enum import StrEnum


class MlvmError(Exception):
    """Anything mlvm can explain: `message`, `details` (may span lines), `hint` (what to do next)."""

    #: Exit code of the command line for this kind of error; `mlvm --help` lists them.
    exit_code = 1

    def __init__(self, message: str, *, details: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.details = details
        self.hint = hint


class SpecError(MlvmError):
    """A spec could not be read; `details` hold one complaint a line, with file, line and column."""

    exit_code = 3


class LockError(MlvmError):
    """A lock could not be read, or does not fit its spec any more."""

    exit_code = 4


class ResolveError(MlvmError):
    """No set of packages satisfies the spec, in the resolver's own words, shortened."""

    exit_code = 4


class DownloadError(MlvmError):
    """A file could not be fetched from any of its places."""

    exit_code = 5


class DigestError(MlvmError):
    """Bytes do not have the digest they must have; they have been thrown away."""

    exit_code = 6


class BuildError(MlvmError):
    """A step of the image could not be carried out."""

    exit_code = 7


class BoxError(MlvmError):
    """A box of somebody's is damaged, or not what may be taken from a stranger."""

    exit_code = 7


class StoreError(MlvmError):
    """The store cannot be used."""

    exit_code = 7


class ProgramError(MlvmError):
    """A program of the host is missing, or ended with an error; `details` hold its last words."""

    exit_code = 8


class MachineError(MlvmError):
    """A machine cannot do what was asked of it."""

    exit_code = 9


class StageTimeout(MachineError):  # noqa: N818  (a time-out, as in asyncio.Timeout)
    """A stage of the boot did not finish in time; `details` hold the last console lines."""


class GuestError(MachineError):
    """The guest answered with an error, or did not answer."""


class KernelError(MlvmError):
    """A Jupyter kernel could not be started or reached."""

    exit_code = 10


class Outcome(StrEnum):
    """What is known of a cell whose kernel is gone."""

    NEVER_RAN = "never ran"
    UNKNOWN = "outcome unknown"


class KernelDiedError(KernelError):
    """A kernel ended while a cell waited or ran; `outcome` tells whether it is safe to run the cell again."""

    def __init__(
        self, message: str, *, outcome: Outcome = Outcome.UNKNOWN, details: str = "", hint: str = ""
    ) -> None:
        if not hint:
            hint = {
                Outcome.NEVER_RAN: "the cell never ran: run it again, a new kernel is started for it",
                Outcome.UNKNOWN: "the cell may have run in part: look at what it changes before running it again",
            }[outcome]
        super().__init__(message, details=details, hint=hint)
        self.outcome = outcome
