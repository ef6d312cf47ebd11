"""`%mlvm switch`: let the notebook's own kernel be one in a machine, through the server that the notebook belongs to.

A Jupyter server changes the kernel of a session when it is asked to; then nothing is relayed any more, and the
variables of the old kernel are gone. The server is found through the files that servers leave in Jupyter's runtime
folder, with the token that is there for programs of the same user. It is asked when the cell has ended: it ends the
kernel that asks.
"""

from __future__ import annotations

import http.client
import json
import ssl
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlvm.errors import KernelError
from mlvm.kernel import kernelspec
from mlvm.project import Project

#: Seconds between the end of a cell and the request that ends its kernel: the cell's last messages go first.
GRACE = 0.5
#: Seconds for looking at a server, and for the change itself, which may boot a machine.
LOOK, CHANGE = 5.0, 300.0
ELSEWHERE = "choose the kernel by hand: Kernel > Change Kernel, after `mlvm kernel install`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A notebook's session on a Jupyter server."""

    url: str
    token: str
    session_id: str
    kernel: str


def find_session(shell: Any) -> Session:
    """Return the session that the kernel of `shell` belongs to. Raises KernelError."""
    if getattr(shell, "kernel", None) is None:
        raise KernelError("only the kernel of a notebook can be switched", hint="%%mlvm sends single cells")
    from ipykernel.connect import get_connection_file  # noqa: PLC0415

    kernel_id = Path(get_connection_file()).stem.removeprefix("kernel-")
    refused: list[str] = []
    for server in _servers():
        url, token = str(server.get("url", "")), str(server.get("token", ""))
        if server.get("sock"):
            refused.append(f"{server['sock']}: it listens on a socket, not a port")
            continue
        try:
            sessions = _ask("GET", url + "api/sessions", token, seconds=LOOK)
        except KernelError as error:
            refused.append(f"{url}: {error.message}")
            continue
        for session in sessions if isinstance(sessions, list) else []:
            if (session.get("kernel") or {}).get("id") == kernel_id:
                return Session(
                    url=url,
                    token=token,
                    session_id=str(session["id"]),
                    kernel=str(session["kernel"].get("name", "")),
                )
    raise KernelError(
        "no Jupyter server says that this notebook's kernel is its own, so none can switch it",
        details="\n".join(refused) or "no server of this user runs here",
        hint=ELSEWHERE,
    )


def kernel_for(project: Project, machine: str) -> str:
    """Return the name of the kernelspec for a machine; installed now, if there is none."""
    for one in kernelspec.installed():
        if (one.machine, one.project) == (machine, project.folder.absolute()):
            return one.name
    return kernelspec.install(project.spec(), project.folder, name=f"mlvm-{machine}", machine=machine).name


def after_this_cell(shell: Any, session: Session, kernel: str) -> None:
    """Switch when the cell that runs has ended."""

    def once(*_: object) -> None:
        with suppress(ValueError):
            shell.events.unregister("post_run_cell", once)
        threading.Timer(GRACE, lambda: _switch(session, kernel)).start()

    shell.events.register("post_run_cell", once)


def change(session: Session, kernel: str) -> None:
    """Ask the server to change the kernel; the one that asks ends by it. Raises KernelError."""
    url = f"{session.url}api/sessions/{session.session_id}"
    _ask("PATCH", url, session.token, seconds=CHANGE, body={"kernel": {"name": kernel}})


def _switch(session: Session, kernel: str) -> None:
    try:
        change(session, kernel)
    except KernelError as error:
        sys.stderr.write(
            f"error: the kernel was not switched: {error.message}\n{error.details}\nhint: {ELSEWHERE}\n"
        )
        sys.stderr.flush()


def _servers() -> Iterator[Mapping[str, Any]]:
    """Yield what servers say of themselves, newest first; files that cannot be read are none."""
    from jupyter_core.paths import jupyter_runtime_dir  # noqa: PLC0415

    files = list(Path(jupyter_runtime_dir()).glob("jpserver-*.json"))
    for file in sorted(files, key=lambda one: one.stat().st_mtime, reverse=True):
        with suppress(OSError, ValueError):
            server = json.loads(file.read_text())
            # Of a server that has ended only the file is left, and somebody else may listen where it did.
            if isinstance(server, dict) and Path(f"/proc/{int(server.get('pid', 0))}").exists():
                yield server


def _ask(method: str, url: str, token: str, *, seconds: float, body: object = None) -> Any:
    """Ask a server on this host. Raises KernelError with its own words."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise KernelError("it has no address")
    host = "127.0.0.1" if parts.hostname in {"0.0.0.0", "::"} else parts.hostname  # noqa: S104  (what it listens on)
    if parts.scheme == "https":
        # Its certificate is for a name that browsers use; the token was read from a file of this user's.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        server: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=seconds, context=context
        )
    else:
        server = http.client.HTTPConnection(host, parts.port, timeout=seconds)
    headers = {"Content-Type": "application/json", **({"Authorization": f"token {token}"} if token else {})}
    try:
        server.request(
            method, parts.path, body=json.dumps(body) if body is not None else None, headers=headers
        )
        answer = server.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise KernelError(f"it does not answer: {error}") from error
    finally:
        server.close()
    if answer.status in {401, 403}:
        raise KernelError("it wants a password, and gives programs no token")
    if answer.status >= 300:
        raise KernelError(
            f"it answers {answer.status} {answer.reason}", details=text.decode("utf-8", "replace")[:500]
        )
    try:
        return json.loads(text)
    except ValueError as error:
        raise KernelError("its answer cannot be read") from error
