"""A notebook attached to a machine as somebody meets it in JupyterLab: sliders are moved, pictures are kept."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("browser.lab")

from playwright.sync_api import expect

from browser.lab import PATIENCE, Lab

pytestmark = pytest.mark.browser

ATTACH = "%load_ext mlvm\n%mlvm attach box"
WHERE = "import os; print('home', os.environ['HOME'])"
IN_THE_MACHINE = re.compile(r"home .*/machines/box/home")

SLIDER = """\
import os, ipywidgets
slider, said, out = ipywidgets.IntSlider(value=3, max=10), ipywidgets.Label(), ipywidgets.Output()

@out.capture(clear_output=True)
def moved(change):
    said.value = f"{change.new} squared is {change.new ** 2}"
    print("printed in", os.environ["HOME"])

slider.observe(moved, "value")
ipywidgets.VBox([slider, said, out])"""

PLOT = """\
%matplotlib inline
import matplotlib.pyplot as plt, numpy as np
plt.figure(figsize=(4, 1.5)); plt.plot(np.sin(np.linspace(0, 12, 200)));"""

SWITCH = """\
from mlvm.notebook import switch
switch.after_this_cell(get_ipython(), switch.find_session(get_ipython()), "mlvm-box")"""


def test_an_attached_notebook_with_slider_output_and_plot(lab: Lab) -> None:
    notebook = lab.open_notebook(
        "attach.ipynb", ATTACH, WHERE, SLIDER, PLOT, "%%local\n" + WHERE, "%mlvm detach"
    )
    notebook.run(0)
    notebook.expect_output(0, "the cells that follow run in machine box".replace("box", "`box`"))
    notebook.run(1)
    notebook.expect_output(1, IN_THE_MACHINE)
    notebook.expect_output(1, "ran in box")
    slider = notebook.run(2).locator(".widget-slider")
    expect(slider).to_be_visible(timeout=PATIENCE)

    notebook.move_slider(slider, 2)

    notebook.expect_output(2, "5 squared is 25")
    notebook.expect_output(2, re.compile(r"printed in .*/machines/box/home"))
    expect(notebook.run(3).locator("img")).to_be_visible(timeout=PATIENCE)
    notebook.run(4)
    notebook.expect_output(4, "ran on the host")
    lab.screenshot("attach")
    notebook.run(5)
    notebook.move_slider(slider, 1)
    notebook.expect_output(2, "6 squared is 36")


def test_interrupt_while_attached(lab: Lab) -> None:
    sleep = "import time\nprint('go', flush=True)\ntime.sleep(300)"
    notebook = lab.open_notebook("attach-interrupt.ipynb", ATTACH, sleep, "print(6 * 7)")
    notebook.run(0)
    notebook.run(1, wait=False)
    notebook.expect_output(1, "go")

    notebook.interrupt()

    notebook.expect_output(1, "KeyboardInterrupt")
    notebook.run(2)
    notebook.expect_output(2, "42")


def test_the_notebooks_own_kernel_is_switched(lab: Lab) -> None:
    notebook = lab.open_notebook("switch.ipynb", SWITCH, WHERE)
    notebook.run(0)

    expect(notebook.panel.locator(".jp-KernelName")).to_contain_text("box", timeout=PATIENCE)
    notebook.wait_idle()
    notebook.run(1)
    notebook.expect_output(1, IN_THE_MACHINE)
