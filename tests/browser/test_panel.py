"""The panel as it looks and works in JupyterLab, in both themes."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

from browser.lab import PATIENCE, Lab, Notebook

pytestmark = pytest.mark.browser


def panel_of(notebook: Notebook, index: int = 0) -> Locator:
    """Return the panel that a cell shows."""
    panel = notebook.outputs(index).locator(".mlvm-panel").first
    expect(panel).to_contain_text("machine", timeout=PATIENCE)
    return panel


def button(panel: Locator, name: str) -> Locator:
    """Return the button with this text; its icon is a letter of a font, and part of its name for screen readers."""
    return panel.locator("button:visible", has_text=re.compile(rf"^\s*{name}$"))


def test_buttons_and_two_panels_agree(lab: Lab) -> None:
    """A machine is stopped in one panel: the other shows it as well."""
    notebook = lab.open_notebook("panel.ipynb", "%mlvm", "import mlvm\nmlvm.panel()", START)
    notebook.run(2)
    notebook.run(0)
    notebook.run(1)
    first, second = panel_of(notebook, 0), panel_of(notebook, 1)
    expect(first).to_contain_text("running", timeout=PATIENCE)

    button(first, "Stop").click(timeout=PATIENCE)
    expect(first).to_contain_text("Shut box down?", timeout=PATIENCE)
    lab.screenshot("panel-asks")
    first.locator(".mlvm-danger:visible").click()

    expect(first).to_contain_text("stopped", timeout=PATIENCE)
    expect(second).to_contain_text("stopped", timeout=PATIENCE)
    first.locator(".mlvm-bare").click()
    expect(notebook.outputs(0).locator(".mlvm-card")).to_have_count(0, timeout=PATIENCE)
    expect(second.locator(".mlvm-card")).to_have_count(1, timeout=PATIENCE)


#: Starts the loopback machine of this very notebook, where no image is.
START = """\
from mlvm.events import SILENT
from mlvm.machine import record, table
from mlvm.paths import Home
box = record.load(Home.find(), "box")
table.provider_for(box).start(box, None, observer=SILENT)
"""


def test_it_is_dark_where_jupyterlab_is(lab: Lab) -> None:
    lab.theme("JupyterLab Dark")
    try:
        notebook = lab.open_notebook("panel-dark.ipynb", "%mlvm")
        notebook.run(0)
        card = panel_of(notebook).locator(".mlvm-card").first
        expect(card).to_be_visible(timeout=PATIENCE)
        lab.screenshot("panel-dark")
        shades = card.evaluate(
            "card => [getComputedStyle(card).backgroundColor, getComputedStyle(card).color]"
        )
    finally:
        lab.theme("JupyterLab Light")

    background, text = (sum(int(one) for one in re.findall(r"\d+", shade)[:3]) for shade in shades)
    assert background < 200 < 500 < text
