"""Kernels in machines as somebody meets them in JupyterLab."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from browser.lab import PATIENCE, Lab

pytestmark = pytest.mark.browser

OURS = "mlvm-box"


def test_the_launcher_shows_our_kernel_with_name_and_logo(lab: Lab) -> None:
    cards = lab.open_launcher().launcher_cards()

    (ours,) = [card for label, card in cards.items() if label.startswith("box")]
    logo = ours.locator("img")
    expect(logo).to_be_visible(timeout=PATIENCE)
    assert f"/kernelspecs/{OURS}/logo" in (logo.get_attribute("src") or "")
    assert logo.evaluate("image => image.complete && image.naturalWidth > 0")
    lab.screenshot("launcher")


def test_a_cell_runs(lab: Lab) -> None:
    notebook = lab.open_notebook("run.ipynb", "import os; print('home', os.environ['HOME'])", kernel=OURS)

    notebook.run(0)

    notebook.expect_output(0, re.compile(r"home .*/machines/box/home"))


def test_interrupt(lab: Lab) -> None:
    notebook = lab.open_notebook(
        "interrupt.ipynb",
        "import time\nprint('go', flush=True)\ntime.sleep(300)",
        "print(6 * 7)",
        kernel=OURS,
    )
    notebook.run(0, wait=False)
    notebook.expect_output(0, "go")

    notebook.interrupt()

    notebook.expect_output(0, "KeyboardInterrupt")
    notebook.run(1)
    notebook.expect_output(1, "42")


def test_restart_forgets(lab: Lab) -> None:
    notebook = lab.open_notebook("restart.ipynb", "kept = 1", "print('kept' in globals())", kernel=OURS)
    notebook.run(0)
    notebook.run(1)
    notebook.expect_output(1, "True")

    notebook.restart()

    notebook.run(1)
    notebook.expect_output(1, "False")


#: A slider whose movements call code where the kernel is.
SLIDER = """\
import os
import ipywidgets

slider, said = ipywidgets.IntSlider(value=3, max=10), ipywidgets.Label()
def moved(change):
    said.value = f"{change.new} squared is {change.new ** 2} on {os.uname().nodename}"

slider.observe(moved, "value")
ipywidgets.VBox([slider, said])
"""


def test_a_slider_moves_code_in_the_kernel(lab: Lab) -> None:
    notebook = lab.open_notebook("slider.ipynb", SLIDER, kernel=OURS)
    slider = notebook.run(0).locator(".widget-slider")
    expect(slider).to_be_visible(timeout=PATIENCE)

    notebook.move_slider(slider, 2)

    notebook.expect_output(0, "5 squared is 25 on ")
    lab.screenshot("slider")


def test_after_the_server_was_restarted(lab: Lab) -> None:
    """A politely stopped server ends its kernels; the next one starts another in the same machine."""
    notebook = lab.open_notebook("server.ipynb", "print(6 * 7)", kernel=OURS)
    notebook.run(0)
    notebook.save()

    lab.server.stop()
    lab.server.start()

    again = lab.open_notebook("server.ipynb")
    again.run(0)
    again.expect_output(0, "42")
