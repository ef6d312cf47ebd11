"""Several machines: nothing before what it needs, nothing new after a failure, down in the reverse order."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlvm import group
from mlvm.cli import run
from mlvm.errors import MachineError, SpecError
from mlvm.machine.record import Record, save
from mlvm.paths import Home
from mlvm.project import Project
from mlvm.spec.reader import loads
from tests.fakes import TapeObserver

SEVERAL = """\
name: lab
machines:
  head: {ready: {port: 22}}
  worker: {count: 2, after: [head]}
  report: {after: [worker]}
  aside: {}
"""


@st.composite
def orders(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Names that each need some of those before them, in any order of writing."""
    names = [f"m{number}" for number in range(draw(st.integers(1, 8)))]
    needs = {
        name: tuple(draw(st.lists(st.sampled_from(names[:number]), unique=True))) if number else ()
        for number, name in enumerate(names)
    }
    return {name: needs[name] for name in draw(st.permutations(names))}


@settings(max_examples=60, deadline=None)
@given(needs=orders(), at_once=st.integers(1, 4))
def test_everything_comes_after_what_it_needs(needs: dict[str, tuple[str, ...]], at_once: int) -> None:
    done: list[str] = []

    def work(name: str) -> str:
        assert set(needs[name]) <= set(done)
        done.append(name)
        return name.upper()

    outcome = group.in_order(needs, work, at_once=at_once)

    assert outcome.done == {name: name.upper() for name in needs}
    assert (outcome.failed, outcome.left) == ({}, ())


@settings(max_examples=60, deadline=None)
@given(needs=orders(), at_once=st.integers(1, 4), data=st.data())
def test_a_failure_leaves_what_needs_it(
    needs: dict[str, tuple[str, ...]], at_once: int, data: st.DataObject
) -> None:
    bad = data.draw(st.sampled_from(sorted(needs)))

    def work(name: str) -> None:
        if name == bad:
            raise MachineError("no")

    outcome = group.in_order(needs, work, at_once=at_once)

    assert list(outcome.failed) == [bad]
    assert sorted([*outcome.done, *outcome.failed, *outcome.left]) == sorted(needs)
    assert {name for name in needs if bad in needs[name]} <= set(outcome.left)


def test_what_the_order_allows_is_done_side_by_side() -> None:
    both = threading.Barrier(2, timeout=20)

    outcome = group.in_order({"a": (), "b": ()}, lambda _: both.wait(), at_once=2)

    assert sorted(outcome.done) == ["a", "b"]


def test_no_more_at_once_than_allowed() -> None:
    inside, most = 0, 0
    guard = threading.Lock()

    def work(_: str) -> None:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.01)
        with guard:
            inside -= 1

    group.in_order({str(number): () for number in range(9)}, work, at_once=2)

    assert most == 2


def test_what_is_under_way_ends_when_another_fails() -> None:
    begun = threading.Event()

    def work(name: str) -> None:
        if name == "slow":
            begun.set()
            threading.Event().wait(0.1)
            return
        begun.wait(20)
        raise MachineError("no")

    outcome = group.in_order({"slow": (), "bad": (), "next": ("slow",)}, work, at_once=2)

    assert (list(outcome.done), list(outcome.failed), outcome.left) == (["slow"], ["bad"], ("next",))


def test_one_machine_needs_those_it_comes_after_and_theirs() -> None:
    spec = loads(SEVERAL)

    assert group.needed(spec, ["report"]) == {
        "head": (),
        "worker-1": ("head",),
        "worker-2": ("head",),
        "report": ("worker-1", "worker-2"),
    }
    assert group.needed(spec, ["aside"]) == {"aside": ()}


@settings(max_examples=60, deadline=None)
@given(needs=orders())
def test_the_reverse_order_is_the_reverse(needs: dict[str, tuple[str, ...]]) -> None:
    turned = group.reverse(needs)

    assert {(a, b) for a in needs for b in needs[a]} == {(b, a) for a in turned for b in turned[a]}
    assert list(turned) == list(reversed(needs))


def test_machines_go_down_after_those_that_need_them(home: Home) -> None:
    spec = loads(SEVERAL)
    records = [
        a_record(home, f"lab-{name}") for name in ("head", "worker-1", "report")
    ]  # worker-2 was never made
    order: list[str] = []

    group.down(spec, records, lambda record, _: order.append(record.name), observer=TapeObserver())

    assert order == ["lab-report", "lab-worker-1", "lab-head"]


def test_a_failure_on_the_way_down_names_those_that_stay(home: Home) -> None:
    spec = loads(SEVERAL)
    records = [a_record(home, f"lab-{name}") for name in ("head", "worker-1", "worker-2", "report")]

    def work(record: Record, _: object) -> None:
        if record.name.startswith("lab-worker"):
            raise MachineError("it is stuck", hint="pull")

    with pytest.raises(MachineError) as raised:
        group.down(spec, records, work, observer=TapeObserver())

    assert raised.value.message.startswith("machine `lab-worker-")
    assert raised.value.message.endswith("` failed: it is stuck")
    assert "left as they are: lab-head" in raised.value.details
    assert "done: lab-report" in raised.value.details
    assert raised.value.hint == "pull"


def test_what_is_told_of_a_machine_has_its_name(home: Home) -> None:
    tape = TapeObserver()

    told = group.Labelled(tape, "head")
    told.stage_started("agent")
    told.note("hello")

    assert (tape.stages, tape.notes) == (["head: agent"], ["head: hello"])


def a_record(home: Home, name: str, project: Path = Path("/nowhere")) -> Record:
    record = Record(name=name, provider="qemu", image_id="0" * 64, project=str(project), home=home)
    record.folder.mkdir(parents=True)
    save(record)
    return record


@pytest.fixture
def lab(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with several machines, some of which were made; nothing of them runs."""
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "mlvm.yaml").write_text(SEVERAL)
    monkeypatch.chdir(folder)
    for name in ("head", "worker-1"):
        a_record(home, f"lab-{name}", folder)
    a_record(home, "other")
    return folder


def test_destroy_takes_the_machines_of_the_project_only(
    lab: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["destroy", "--yes", "--progress", "none"]) == 0

    assert capsys.readouterr().out == "machine `lab-head` is gone\nmachine `lab-worker-1` is gone\n"
    assert [path.name for path in home.machines.iterdir() if path.name != ".holds"] == ["other"]


def test_nobody_is_destroyed_unasked(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["destroy"]) == 9
    assert capsys.readouterr().err == (
        "error: machines `lab-head`, `lab-worker-1` have their own disks, which would be lost\n"
        "hint: mlvm destroy --yes\n"
    )


def test_a_machine_is_known_by_its_own_name_where_it_belongs(
    lab: Path, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["destroy", "--yes", "worker-1", "--progress", "none"]) == 0
    assert capsys.readouterr().out == "machine `lab-worker-1` is gone\n"
    assert home.machine("lab-head").exists()


def test_a_machine_that_is_not_in_the_spec(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["up", ".", "--name", "tail"]) == 9
    assert capsys.readouterr().err == (
        "error: there is no machine `tail` in this project\n"
        "  machines: head, worker-1, worker-2, report, aside\n"
        "hint: `mlvm up` brings up all of them\n"
    )


def test_a_ring_is_refused_where_it_is_written() -> None:
    with pytest.raises(SpecError) as raised:
        loads("name: a\nmachines:\n  x: {after: [z]}\n  y: {after: [x]}\n  z: {after: [y]}\n")

    assert raised.value.details.startswith("mlvm.yaml:")
    assert "nothing could be started first" in raised.value.details


@settings(max_examples=60, deadline=None)
@given(needs=orders(), data=st.data())
def test_every_order_can_be_read_and_every_ring_is_refused(
    needs: dict[str, tuple[str, ...]], data: st.DataObject
) -> None:
    lines = [f"  {name}: {{after: [{', '.join(after)}]}}" for name, after in needs.items()]
    text = "\n".join(["name: a", "machines:", *lines, ""])
    assert [member.name for member in loads(text).machines] == list(needs)

    first, last = data.draw(st.sampled_from(sorted(needs))), data.draw(st.sampled_from(sorted(needs)))
    ring = {**needs, first: (*needs[first], last)}
    closes = last == first or first in reach(needs, last)
    lines = [f"  {name}: {{after: [{', '.join(dict.fromkeys(after))}]}}" for name, after in ring.items()]
    text = "\n".join(["name: a", "machines:", *lines, ""])
    if closes:
        with pytest.raises(SpecError, match="cannot be read as a spec"):
            loads(text)
    else:
        assert len(loads(text).machines) == len(needs)


def reach(needs: dict[str, tuple[str, ...]], name: str) -> set[str]:
    """Return everything that `name` needs, however far away."""
    found: set[str] = set()
    for other in needs[name]:
        found |= {other} | reach(needs, other)
    return found


def test_gpus_of_all_machines_are_counted_before_anything_is_made(home: Home, tmp_path: Path) -> None:
    """No host has as many as these want together."""
    (tmp_path / "mlvm.yaml").write_text("name: lab\nmachine: {gpu: 4}\nmachines:\n  a: {}\n  b: {gpu: 4}\n")

    with pytest.raises(MachineError, match="GPU") as refused:
        group.up(Project(folder=tmp_path, home=home))

    assert "8" in refused.value.message
    assert not (tmp_path / "mlvm.lock").exists()
