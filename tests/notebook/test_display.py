"""Progress in a cell, as text and as HTML."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from mlvm.errors import MlvmError
from mlvm.notebook import display
from mlvm.notebook.display import CellProgress, Table, render


def test_stages_notes_and_console() -> None:
    progress = CellProgress("mlvm up box", live=False)
    progress.stage_started("download", "12 files")
    progress.stage_progress("download", 50, 200, "numpy")
    progress.stage_finished("download", 2.04, "200 MB")
    progress.stage_started("guest kernel")
    progress.note("no KVM: emulating")
    progress.console("[    0.1] Linux\r\n[    0.2] vi")
    progress.console("rtio\r\n")

    assert progress.text() == (
        "mlvm up box\n"
        "  ✓ download        2.0 s  200 MB\n"
        "  … guest kernel      0 s\n"
        "  no KVM: emulating\n"
        "  | [    0.1] Linux\n"
        "  | [    0.2] virtio"
    )


def test_a_running_stage_shows_its_share() -> None:
    progress = CellProgress("x", live=False)
    progress.stage_started("download")
    progress.stage_progress("download", 50, 200, "numpy")

    assert progress.text() == "x\n  … download          0 s   25 %  numpy"
    assert '<progress value="50" max="200"></progress>' in progress.html()


def test_html_is_escaped() -> None:
    progress = CellProgress("<i>", live=False)
    progress.stage_started("build", "<script>")
    progress.note("<b>")
    progress.console("<img>\n")

    html = progress.html()

    assert "&lt;i&gt;" in html
    for tag in ("<i>", "<script>", "<img>"):
        assert tag not in html


def test_the_console_keeps_its_last_lines() -> None:
    progress = CellProgress("x", live=False)
    progress.stage_started("init")
    for number in range(100):
        progress.console(f"line {number}\n")

    assert progress.text().splitlines()[2:] == [f"  | line {n}" for n in range(96, 100)]


def test_one_display_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of events from several threads are few drawings, of one display, and the last one is complete."""
    drawn: list[tuple[str, str]] = []

    class Handle:
        def update(self, bundle: dict[str, str], *, raw: bool) -> None:
            drawn.append(("update", bundle["text/plain"]))

    def show(bundle: dict[str, str], **_: Any) -> Handle:
        drawn.append(("display", bundle["text/plain"]))
        return Handle()

    monkeypatch.setattr("IPython.display.display", show)
    monkeypatch.setattr(display, "TICK", 0.01)

    with CellProgress("x") as progress:
        progress.stage_started("download")
        workers = [
            threading.Thread(
                target=lambda: [progress.stage_progress("download", n, 1000) for n in range(1000)]
            )
            for _ in range(4)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        progress.stage_finished("download", 1.0, "done")

    assert [kind for kind, _ in drawn].count("display") == 1
    assert drawn[0][0] == "display"
    assert len(drawn) < 200
    assert drawn[-1][1] == "x\n  ✓ download        1.0 s  done"


def test_the_console_is_shown_only_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    with CellProgress("x", live=False) as well:
        well.console("boot\n")
    badly = CellProgress("x", live=False)
    badly.console("panic\n")
    with pytest.raises(MlvmError), badly:
        raise MlvmError("no")

    assert well.text() == "x"
    assert badly.text() == "x\n  | panic"


def test_an_error_in_plain_words() -> None:
    error = MlvmError("it failed", details="first\nsecond", hint="try this")

    assert render(error) == ["error: it failed", "  first", "  second", "hint: try this"]


def test_an_empty_table() -> None:
    table = Table(("a",), [], empty="nothing <here>")

    assert (repr(table), table._repr_html_()) == ("nothing <here>", "<div>nothing &lt;here&gt;</div>")


def test_a_table() -> None:
    table = Table(("name", "x"), [("longer name", "<1>"), ("b", "")], empty="")

    assert repr(table) == "name         x\nlonger name  <1>\nb"
    assert "<td>&lt;1&gt;</td>" in table._repr_html_()
