"""A notebook attached to a machine as somebody meets it in JupyterLab: sliders are moved, pictures are kept."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

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

UPLOAD = """\
import hashlib, os, ipywidgets
upload, got = ipywidgets.FileUpload(), ipywidgets.Label("nothing yet")

def arrived(change):
    (one,) = change.new
    digest = hashlib.sha256(one.content).hexdigest()[:12]
    got.value = f"{one.name} of {one.size} bytes: {digest} in {os.environ['HOME']}"

upload.observe(arrived, "value")
ipywidgets.VBox([upload, got])"""

COUNTER = """\
import anywidget, os, traitlets

class Counter(anywidget.AnyWidget):
    _esm = '''
    export default { render({ model, el }) {
        const button = document.createElement("button");
        button.className = "counter";
        const show = () => { button.textContent = `${model.get("count")} in ${model.get("home")}`; };
        button.onclick = () => { model.set("count", model.get("count") + 1); model.save_changes(); };
        model.on("change", show);
        show();
        el.append(button);
    } }'''
    count = traitlets.Int(0).tag(sync=True)
    home = traitlets.Unicode("nowhere").tag(sync=True)

def pressed(change):
    counter.home = os.environ["HOME"]

counter = Counter()
counter.observe(pressed, "count")
counter"""

MOVABLE = """\
%matplotlib widget
import matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(4, 2)); axes.plot([1, 3, 2])
figure.canvas.mpl_connect("button_press_event", lambda event: axes.set_title(f"clicked {event.button}"))
figure.canvas"""

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


def test_widgets_of_others_and_bytes_from_the_browser(lab: Lab, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "points.bin").write_bytes(data)
    notebook = lab.open_notebook(
        "attach-widgets.ipynb", ATTACH, UPLOAD, COUNTER, MOVABLE, "print(axes.get_title(), counter.count)"
    )
    notebook.run(0)

    upload = notebook.run(1).locator("button.widget-upload")
    with lab.page.expect_file_chooser() as chooser:
        upload.click()
    chooser.value.set_files(tmp_path / "points.bin")

    digest = hashlib.sha256(data).hexdigest()[:12]
    notebook.expect_output(1, re.compile(rf"points.bin of 300000 bytes: {digest} in .*/machines/box/home"))
    button = notebook.run(2).locator("button.counter")
    button.click()
    button.click()
    notebook.expect_output(2, re.compile(r"2 in .*/machines/box/home"))
    canvas = notebook.run(3).locator(".jupyter-matplotlib canvas").last
    expect(canvas).to_be_visible(timeout=PATIENCE)
    canvas.click(position={"x": 200, "y": 100})
    lab.screenshot("attach-widgets")
    notebook.run(4)
    notebook.expect_output(4, "clicked 1 2")


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
