"""A browser, servers and pages. The browser is the system's; nothing is downloaded and nothing leaves this host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import write_record
from playwright.sync_api import Browser, sync_playwright

from browser.lab import Lab
from browser.server import LabServer
from mlvm.kernel import kernelspec
from mlvm.paths import Home
from mlvm.spec.document import Spec

#: A browser that draws in software, keeps to itself, and may run as root in a container.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium without a screen."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "no chromium; next: tools/host-setup test"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabServer]:
    """JupyterLab with the kernel "box (mlvm)", whose machine is a folder of this host."""
    folder = tmp_path_factory.mktemp("lab")
    made = LabServer(folder, loopback=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_DATA_DIR", "MLVM_HOME"):
            patch.setenv(name, made.env[name])
        kernelspec.install(Spec(name="box"), folder)
        write_record(Home.find(), "box", folder)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def lab(browser: Browser, server: LabServer, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A page of that JupyterLab; a test that fails leaves a picture of it."""
    yield from open_page(browser, server, request)


def open_page(browser: Browser, server: LabServer, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Yield a page with cookies and storage of its own."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    lab = Lab(context.new_page(), server)
    failed = request.session.testsfailed
    yield lab
    if request.session.testsfailed > failed:
        lab.screenshot(f"failed-{request.node.name}")
    context.close()


@pytest.fixture
def notebooks(server: LabServer) -> Path:
    """The folder that JupyterLab shows."""
    return server.notebooks
