"""Errors carry three parts, and the tree at the top of the module is the real one."""

from __future__ import annotations

import copy
import pickle

import pytest

from mlvm import errors
from mlvm.errors import KernelDiedError, MlvmError, Outcome, SpecError
from mlvm.events import SILENT, STAGES, Observer, stage


def kinds(kind: type[MlvmError], depth: int = 0) -> list[tuple[int, str]]:
    """Return every kind of error below one, with its depth, parents first."""
    found = [(depth, kind.__name__)]
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            found += kinds(child, depth + 1)
    return found


def test_three_parts() -> None:
    error = MlvmError("what", details="more\nlines", hint="mlvm doctor")

    assert (str(error), error.message, error.details, error.hint) == (
        "what",
        "what",
        "more\nlines",
        "mlvm doctor",
    )


def test_details_and_hint_may_be_missing() -> None:
    error = MlvmError("what")

    assert (error.details, error.hint) == ("", "")


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_survive_the_way_between_processes(copied: object) -> None:
    error = copied(SpecError("what", details="more", hint="next"))  # type: ignore[operator]

    assert type(error) is SpecError
    assert (error.message, error.details, error.hint) == ("what", "more", "next")


def test_what_is_known_of_a_cell_survives_it_too() -> None:
    error = pickle.loads(pickle.dumps(KernelDiedError("what", outcome=Outcome.NEVER_RAN)))

    assert (str(error), error.outcome) == ("what", Outcome.NEVER_RAN)
    assert error.hint == "the cell never ran: run it again, a new kernel is started for it"


def test_the_tree_is_drawn_as_it_is() -> None:
    """Every class stands in the drawing, in its place: four columns deeper than its parent."""
    lines = [
        line
        for line in (errors.__doc__ or "").splitlines()
        if line.lstrip(" |`-").split("  ")[0].isidentifier()
    ]
    drawn = [
        ((len(line) - len(line.lstrip(" |`-")) - 4) // 3, line.lstrip(" |`-").split()[0]) for line in lines
    ]

    assert drawn == kinds(MlvmError)


def test_exit_codes_leave_room_for_usage_and_signals() -> None:
    codes = {getattr(errors, name).exit_code for _, name in kinds(MlvmError)}

    assert codes == {1, 3, 4, 5, 6, 7, 8, 9, 10}  # 2 is wrong usage


class Tape(Observer):
    """Records what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []

    def stage_started(self, stage: str, detail: str = "") -> None:
        self.heard.append(("started", stage, detail))

    def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
        assert seconds >= 0
        self.heard.append(("finished", stage, detail))


def test_a_stage() -> None:
    tape = Tape()

    with stage(tape, "build", "sklearn") as outcome:
        outcome += ["first", "4 layers"]

    assert tape.heard == [("started", "build", "sklearn"), ("finished", "build", "4 layers")]


def test_a_stage_that_fails_is_not_finished() -> None:
    tape = Tape()

    with pytest.raises(ZeroDivisionError), stage(tape, "build"):
        raise ZeroDivisionError

    assert tape.heard == [("started", "build", "")]


def test_nobody_need_listen() -> None:
    with stage(SILENT, STAGES[0]):
        SILENT.stage_progress(STAGES[0], 1, 2)
        SILENT.note("a note")
        SILENT.console("text")
