"""A JupyterLab server of its own: folders, token, port, kernelspecs, and machines that are folders of this host.

The server is a process like a user's, so a fake has to be brought in through Jupyter's own doors: its configuration
file is Python, and so are the start-up files of IPython. Both replace the one function that opens a machine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

#: Put into the server's configuration and into every local kernel: machines are folders below {folder}.
LOOPBACK = """
import pathlib, sys
sys.path.insert(0, {tests!r})
from fakes import LoopbackProvider
from mlvm.kernel import launch
from mlvm.machine import table
from mlvm.machine.record import load

_loopback = LoopbackProvider(pathlib.Path({folder!r}))

def _open_machine(place, *, observer):
    record = load(place.home, place.machine)
    return record, _loopback, _loopback.start(record, None, observer=observer)

launch.open_machine = _open_machine
table.provider_for = lambda record, **options: _loopback
"""

SERVER = """
c.ServerApp.open_browser = False
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port_retries = 0
c.ServerApp.allow_root = True
c.IdentityProvider.token = {token!r}
c.LabApp.expose_app_in_browser = True
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.news_url = None
"""

#: What every user would click away, and what asks the network.
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/application-extension/sidebar": {},
}
TOKEN = "browser-test"


class LabServer:
    """One JupyterLab below `folder`; `start` and `stop` may be called again and again, the address stays.

    With `loopback`, machines are folders; without, they are what `MLVM_HOME` of this process says.
    """

    def __init__(self, folder: Path, *, loopback: bool) -> None:
        self.folder = folder
        self.notebooks = folder / "notebooks"
        self.log = folder / "server.log"
        self.port = _free_port()
        self.env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for variable in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            self.env[variable] = str(folder / variable.lower())
        self.env["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
        self.env["JUPYTERLAB_WORKSPACES_DIR"] = str(folder / "workspaces")
        if loopback:
            self.env["MLVM_HOME"] = str(folder / "home")
        self.process: subprocess.Popen[bytes] | None = None
        self._configure(loopback=loopback)

    @property
    def url(self) -> str:
        """Where the server is; a page adds its own path."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", f"--ServerApp.port={self.port}"],
                cwd=self.notebooks,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"JupyterLab did not start:\n{self.log.read_text()}")
            time.sleep(0.2)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the server: politely it ends its kernels as well, with SIGKILL it cannot."""
        if self.process is None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(60)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
            self.process = None

    def set(self, extension: str, **values: object) -> None:
        """Change a setting of a JupyterLab extension, as its settings editor does."""
        path = self.folder / "settings" / f"{extension}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))

    def _configure(self, *, loopback: bool) -> None:
        config, profile = (
            Path(self.env["JUPYTER_CONFIG_DIR"]),
            Path(self.env["IPYTHONDIR"]) / "profile_default",
        )
        for made in (self.notebooks, config, profile / "startup"):
            made.mkdir(parents=True)
        tests = str(Path(__file__).parent.parent)
        fake = LOOPBACK.format(tests=tests, folder=str(self.folder / "machines")) if loopback else ""
        (config / "jupyter_server_config.py").write_text(SERVER.format(token=TOKEN) + fake)
        (profile / "startup" / "00-loopback.py").write_text(fake)
        (profile / "ipython_kernel_config.py").write_text('c.IPKernelApp.extensions = ["mlvm"]\n')
        for extension, values in SETTINGS.items():
            self.set(extension, **values)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/status?token={TOKEN}", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
