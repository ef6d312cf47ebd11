"""The panel without a browser: its pictures, its buttons, and what is left when it is closed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from fakes import LoopbackProvider, write_record
from ipywidgets import Widget

from mlvm.errors import MachineError
from mlvm.events import Observer
from mlvm.image.store import Store
from mlvm.machine.doctor import Check, Grade
from mlvm.machine.provider import State
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.machine.record import Record, load
from mlvm.notebook import panel as panels
from mlvm.notebook import watcher as watchers
from mlvm.notebook.card import Card
from mlvm.notebook.face import Face
from mlvm.notebook.panel import Panel
from mlvm.notebook.watcher import Watcher
from mlvm.paths import Home

HOSTILE = "<img src=x onerror=alert(1)>&{name}"


@pytest.fixture
def watcher(home: Home, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watcher]:
    checks = [
        Check(name="memory", grade=Grade.WARN, found="1.0 GiB", mend="close <something>"),
        Check(name="ssh", grade=Grade.OK, found="/usr/bin/ssh"),
    ]
    monkeypatch.setattr(watchers, "examine", lambda home, vmlinuz: checks)  # the real one runs QEMU
    yield Watcher(home, period=0.05)
    until(lambda: not any(thread.name == "mlvm-watch" for thread in threading.enumerate()))


@pytest.fixture
def panel(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> Iterator[Panel]:
    """A panel as it is in a cell of a notebook: with widgets."""
    monkeypatch.setattr(panels, "_cell", lambda: "")
    made = Panel(watcher)
    yield made
    made.close()


def until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def show(panel: Panel) -> Face:
    """Display a panel; return its widgets as soon as it has looked."""
    panel._repr_mimebundle_()
    face: Face = panel._face
    until(lambda: "looking" not in face.heading.value)
    return face


def card_of(panel: Panel, name: str = "box") -> Card:
    face = show(panel)
    until(lambda: name in face._cards)
    return face._cards[name]


def visible(widget: Any) -> bool:
    return widget.layout.display != "none"


def shown_buttons(card: Card) -> list[str]:
    return [verb for verb, button in card.buttons.items() if visible(button)]


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}


def test_the_three_pictures(panel: Panel, machine: Record) -> None:
    bundle = panel._repr_mimebundle_()

    assert str(bundle["text/plain"]).splitlines() == [
        "machine  state    image         project",
        f"box      stopped  000000000000  {machine.project}",
    ]
    assert "box</span>" in str(bundle["text/html"])
    assert set(bundle["application/vnd.jupyter.widget-view+json"]) >= {"model_id"}  # type: ignore[call-overload]


def test_where_there_are_no_widgets(watcher: Watcher, machine: Record) -> None:
    before = threading.active_count()

    bundle = Panel(watcher)._repr_mimebundle_()

    assert set(bundle) == {"text/plain", "text/html"}
    assert threading.active_count() == before


def test_without_machines(panel: Panel) -> None:
    assert repr(panel) == "no machines yet; next: %mlvm up BOX"
    assert "no machines yet" in show(panel).heading.value


def test_doctors_warnings(panel: Panel) -> None:
    face = show(panel)

    until(lambda: face.warnings.value)

    assert "1 warning of" in face.warnings.value
    assert "<b>memory</b>: 1.0 GiB · mend: <code>close &lt;something&gt;</code>" in face.warnings.value
    assert "ssh" not in face.warnings.value


def test_names_are_escaped_everywhere(panel: Panel, home: Home, tmp_path: Path) -> None:
    for name, project in ((HOSTILE, "x"), ("fine", HOSTILE)):
        folder = home.machines / name
        if name == "fine":
            write_record(home, name, tmp_path / project)
        else:
            folder.mkdir(parents=True)
            (folder / "machine.json").write_text("{}")

    bundle = panel._repr_mimebundle_()
    face = show(panel)
    until(lambda: len(face._cards) == 2)
    pages = [str(bundle["text/html"]), face.heading.value]
    for card in face._cards.values():
        card._asked = panels_question()
        card._draw_question()
        pages += [card.title.value, card.facts.value, card.plots.value, card.question.value]
    tags = set().union(*(Tags(page).found for page in pages))

    assert tags & {"img", "src", "onerror", "script"} == set()
    assert "&lt;img src=x" in pages[0]


def panels_question() -> Any:
    from mlvm.notebook.actions import ACTIONS

    return next(action for action in ACTIONS if action.verb == "destroy")


def test_a_machine_that_cannot_be_read_is_broken(panel: Panel, home: Home) -> None:
    (home.machines / "bad").mkdir(parents=True)
    (home.machines / "bad" / "machine.json").write_text("{")

    card = card_of(panel, "bad")

    assert "broken" in card.title.value
    assert "cannot be read" in card.facts.value
    assert shown_buttons(card) == []


def test_the_buttons_fit_the_state(panel: Panel, machine: Record, provider: LoopbackProvider) -> None:
    card = card_of(panel)
    assert shown_buttons(card) == ["up", "destroy"]

    provider.start(machine, None, observer=Observer())

    until(lambda: shown_buttons(card) == ["suspend", "snapshot", "fork", "stop"])


def test_fork_makes_a_second_machine(
    panel: Panel, machine: Record, provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = object()
    monkeypatch.setattr(Store, "find_image", lambda self, wanted: image)
    provider.start(machine, None, observer=Observer())
    card = card_of(panel)
    until(lambda: "fork" in shown_buttons(card))

    card.buttons["fork"].click()

    until(lambda: "running" in card_of(panel, "box-2").title.value)
    fork = load(machine.home, "box-2")
    assert fork is not None
    assert fork.fork_of == "box"


def test_the_machine_that_is_forked_here_is_forked_as_a_real_one() -> None:
    """What stands in for a provider takes what a provider takes."""
    ours, real = (
        [(one.name, one.kind) for one in signature(kind.fork).parameters.values()]
        for kind in (LoopbackProvider, QemuProvider)
    )

    assert ours == real


def test_a_button_cannot_be_pressed_twice(
    panel: Panel, machine: Record, provider: LoopbackProvider, watcher: Watcher
) -> None:
    """Not in this panel, and not in another."""
    provider.start(machine, None, observer=Observer())
    go_on, began = threading.Event(), []

    def slow(record: Record, name: str, *, observer: Observer) -> None:
        observer.stage_started("agent", "it takes its time")
        began.append(name)
        go_on.wait(120)

    provider.snapshot = slow  # type: ignore[method-assign]
    other = Panel(watcher)
    cards = card_of(panel), card_of(other)
    until(lambda: all("snapshot" in shown_buttons(card) for card in cards))
    cards[0].buttons["snapshot"].click()
    cards[0].buttons["snapshot"].click()
    until(lambda: all(card.buttons["snapshot"].disabled for card in cards))
    until(lambda: all("it takes its time" in card.work.value for card in cards))
    cards[1].buttons["snapshot"].click()
    go_on.set()
    until(lambda: not any(card.buttons["snapshot"].disabled for card in cards))
    other.close()

    assert len(began) == 1


def test_what_goes_wrong_is_said_until_it_is_dismissed(
    panel: Panel, machine: Record, provider: LoopbackProvider
) -> None:
    def broken(record: Record, *, observer: Observer) -> None:
        raise MachineError("no <room>", hint="mlvm prune")

    provider.suspend = broken  # type: ignore[method-assign]
    provider.start(machine, None, observer=Observer())
    card = card_of(panel)
    until(lambda: "suspend" in shown_buttons(card))

    card.buttons["suspend"].click()

    until(lambda: "error: no &lt;room&gt;\nhint: mlvm prune" in card.work.value)
    assert not card.buttons["suspend"].disabled
    card.dismiss.click()
    until(lambda: card.work.value == "")


def test_destroy_asks(panel: Panel, machine: Record, provider: LoopbackProvider) -> None:
    card = card_of(panel)

    card.buttons["destroy"].click()

    assert visible(card.ask)
    assert "Destroy <b>box</b>?" in card.question.value
    card.no.click()
    assert (visible(card.ask), machine.folder.exists()) == (False, True)
    card.buttons["destroy"].click()
    card.yes.click()
    until(lambda: not machine.folder.exists())
    until(lambda: panel._face._cards == {})


def test_starting_shows_its_stages(panel: Panel, machine: Record, provider: LoopbackProvider) -> None:
    go_on = threading.Event()
    start = provider.start

    def slow(record: Record, image: object, *, observer: Observer) -> object:
        observer.stage_started("guest kernel")
        go_on.wait(120)
        return start(record, image, observer=observer)

    provider.start = slow  # type: ignore[assignment, method-assign]
    provider.states["box"] = State.SUSPENDED
    card = card_of(panel)
    from mlvm.notebook import actions

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(actions, "_image", lambda record: None)
        until(lambda: "up" in shown_buttons(card))
        card.buttons["up"].click()
        until(lambda: "guest kernel" in card.work.value)
        go_on.set()
        until(lambda: "running" in card.title.value)


def test_the_console_on_demand(panel: Panel, machine: Record, provider: LoopbackProvider) -> None:
    machine.console_log.write_text("\x1b[1mold\x1b[0m\n" * 100 + "the <last> line\n")
    card = card_of(panel)
    assert card.console.value == ""

    card.log.click()

    assert "the &lt;last&gt; line" in card.console.value
    assert "\x1b" not in card.console.value
    card.log.click()
    assert card.console.value == ""


def test_plots_come_with_time(panel: Panel, machine: Record, provider: LoopbackProvider) -> None:
    provider.start(machine, None, observer=Observer())
    card = card_of(panel)

    until(lambda: card.plots.value.count("<polyline") >= 2)

    assert "CPU" in card.plots.value


def test_closing_leaves_nothing(machine: Record, watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread, and no widget with what hangs on it, however often."""
    monkeypatch.setattr(panels, "_cell", lambda: "")
    threads, widgets = set(threading.enumerate()), len(_widgets())

    for _ in range(5):
        made = [Panel(watcher), Panel(watcher)]
        for one in made:
            card_of(one)
        for one in made:
            one.close()
            one.close()

    until(lambda: set(threading.enumerate()) <= threads)
    assert len(_widgets()) == widgets


def test_the_last_panel_ends_the_looking(panel: Panel, watcher: Watcher) -> None:
    other = Panel(watcher)
    show(panel)
    show(other)
    panel.close()
    assert watcher._thread is not None

    other.close()

    assert watcher._thread is None


def test_an_untouched_panel_stops_and_goes_on(
    machine: Record, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "_cell", lambda: "")
    panel = Panel(watcher, idle=0.2)
    face = show(panel)

    until(lambda: not panel.live)

    assert visible(face.resume)
    face.resume.click()
    assert panel.live
    until(lambda: not panel.live)
    panel.close()


def test_a_cell_that_runs_again_closes_its_first_panel(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "_cell", lambda: "cell-1")
    first, second = Panel(watcher), Panel(watcher)
    first._repr_mimebundle_()

    second._repr_mimebundle_()

    assert (first.live, second.live) == (False, True)
    second.close()


def _widgets() -> dict[str, Widget]:
    from ipywidgets.widgets import widget

    found: dict[str, Widget] = widget._instances
    return found
