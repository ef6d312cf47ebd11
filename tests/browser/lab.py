"""JupyterLab as somebody sees it: what a test wants to do, in words; the selectors are all here.

Waiting is always for something to be seen, under one deadline that is long enough for an emulated guest on a busy
host: a test that fails has waited for something that never came.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Locator, Page, expect

from browser.server import TOKEN, LabServer

#: Milliseconds until something must have been seen.
PATIENCE = 300_000
#: The indicator says idle before there is a kernel to run a cell in, so the application itself is asked.
READY = """() => {
    const context = window.jupyterapp.shell.currentWidget?.sessionContext;
    const kernel = context?.session?.kernel;
    return context?.isReady && kernel?.connectionStatus === "connected" && kernel.status === "idle";
}"""
#: What a cell showed before it runs must not pass for what it shows then.
CLEAR = "index => window.jupyterapp.shell.currentWidget.content.widgets[index].model.clearExecution()"
#: A restart leaves the prompts as they are: the kernel's own word is waited for.
WATCH_RESTART = """() => {
    window.restartSeen = false;
    window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.statusChanged.connect((_, status) => {
        window.restartSeen ||= ["restarting", "starting", "autorestarting"].includes(status);
    });
}"""
SCREENSHOTS = Path(__file__).parent / "screenshots"


class Lab:
    """One JupyterLab page."""

    def __init__(self, page: Page, server: LabServer) -> None:
        self.page = page
        self.server = server
        page.set_default_timeout(PATIENCE)

    def open_launcher(self) -> Lab:
        """Show the launcher."""
        self._goto("/lab?reset")
        expect(self.page.locator(".jp-Launcher-body").first).to_be_visible(timeout=PATIENCE)
        return self

    def launcher_cards(self, section: str = "Notebook") -> dict[str, Locator]:
        """Return the cards of a section of the launcher, by what stands on them."""
        part = self.page.locator(".jp-Launcher-section").filter(
            has=self.page.locator(f".jp-Launcher-sectionTitle:text-is({section!r})")
        )
        cards = part.locator(".jp-LauncherCard")
        expect(cards.first).to_be_visible(timeout=PATIENCE)
        return {card.locator(".jp-LauncherCard-label").inner_text().strip(): card for card in cards.all()}

    def open_notebook(self, name: str, *cells: str, kernel: str = "python3") -> Notebook:
        """Write a notebook with these cells, open it, and wait for its kernel; an existing one stays as it is."""
        path = self.server.notebooks / name
        if cells or not path.exists():
            notebook = new_notebook(
                cells=[new_code_cell(source) for source in cells or ("",)],
                metadata={"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
            )
            nbformat.write(notebook, path)
        self._goto(f"/lab/tree/{quote(name)}?reset")
        return Notebook(self).wait_idle()

    def notebook(self) -> Notebook:
        """Return the notebook that is shown, as soon as its kernel is idle."""
        return Notebook(self).wait_idle()

    def accept(self) -> None:
        """Press the affirmative button of the dialogue that is shown."""
        self.page.locator(".jp-Dialog .jp-mod-accept").last.click()

    def theme(self, name: str) -> None:
        """Choose a theme for the pages opened from now on: "JupyterLab Light" or "JupyterLab Dark"."""
        self.server.set("@jupyterlab/apputils-extension/themes", theme=name)

    def screenshot(self, name: str, part: Locator | None = None) -> Path:
        """Keep a picture of the page, or of a part of it, in a folder that git ignores."""
        SCREENSHOTS.mkdir(exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        (part or self.page).screenshot(path=path)
        return path

    def _goto(self, where: str) -> None:
        self.page.goto(f"{self.server.url}{where}{'&' if '?' in where else '?'}token={TOKEN}")
        expect(self.page.locator("#jupyterlab-splash")).to_have_count(0, timeout=PATIENCE)


class Notebook:
    """The notebook in front."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.page = lab.page
        self.panel = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")

    def wait_idle(self) -> Notebook:
        """Wait until the kernel is there and has nothing to do."""
        self.panel.wait_for()
        self.page.wait_for_function(READY)
        return self._wait_status("idle")

    def wait_busy(self) -> Notebook:
        """Wait until the kernel does something."""
        return self._wait_status("busy")

    def cell(self, index: int) -> Locator:
        """Return a cell, counted from 0."""
        return self.panel.locator(f'.jp-Cell[data-windowed-list-index="{index}"]')

    def run(self, index: int, *, wait: bool = True) -> Locator:
        """Run a cell as a person does, with Ctrl+Enter; return its outputs, when it is done unless told otherwise."""
        cell = self.cell(index)
        cell.scroll_into_view_if_needed()
        self.page.evaluate(CLEAR, index)
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        if wait:
            prompt = cell.locator(".jp-InputPrompt")
            expect(prompt).to_have_text(re.compile(r"\[\d+\]:"), timeout=PATIENCE)
        return self.outputs(index)

    def write(self, index: int, source: str) -> None:
        """Replace what stands in a cell."""
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.insert_text(source)

    def prompt(self, index: int) -> str:
        """Return what stands before a cell: `[ ]:`, `[*]:`, `[3]:`."""
        return self.cell(index).locator(".jp-InputPrompt").inner_text()

    def outputs(self, index: int) -> Locator:
        """Return the outputs of a cell."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def expect_output(self, index: int, text: str | re.Pattern[str]) -> Locator:
        """Wait until a cell's outputs hold a text."""
        outputs = self.outputs(index)
        expect(outputs).to_contain_text(text, timeout=PATIENCE)
        return outputs

    def interrupt(self) -> None:
        """Press the button that interrupts the kernel."""
        self.panel.locator('[data-command="notebook:interrupt-kernel"]').click()

    def restart(self) -> Notebook:
        """Press the button that restarts the kernel, say yes, and wait for it."""
        self.page.evaluate(WATCH_RESTART)
        self.panel.locator('[data-command="notebook:restart-kernel"]').click()
        self.lab.accept()
        self.page.wait_for_function("() => window.restartSeen")
        return self.wait_idle()

    def save(self) -> None:
        """Save it, and wait until it is."""
        self.page.keyboard.press("Control+S")
        expect(self.page.locator(".lm-TabBar-tab.jp-mod-current.jp-mod-dirty")).to_have_count(
            0, timeout=PATIENCE
        )

    def kernel_shown(self) -> str:
        """Return the kernel's name as the toolbar shows it."""
        return self.panel.locator(".jp-KernelName").inner_text().strip()

    def move_slider(self, slider: Locator, steps: int) -> None:
        """Move an ipywidgets slider with the keyboard, as one does it exactly."""
        handle = slider.locator(".noUi-handle").first
        handle.focus()
        for _ in range(abs(steps)):
            handle.press("ArrowRight" if steps > 0 else "ArrowLeft")

    def _wait_status(self, status: str) -> Notebook:
        indicator = self.panel.locator(".jp-Notebook-ExecutionIndicator").first
        expect(indicator).to_have_attribute("data-status", status, timeout=PATIENCE)
        return self
