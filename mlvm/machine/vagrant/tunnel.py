"""One ssh connection a machine, kept open: everything that goes between host and guest goes through it.

The handshake takes seconds where the CPU is emulated, a further command over an open connection hundredths. The agent's
sockets in the guest appear on the host as if QEMU had made them, and ports of the guest on 127.0.0.1. The host key is
known beforehand and checked; when the connection has died, it is opened again, with all that went through it.
"""

from __future__ import annotations

import json
import shlex
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlvm import files, process
from mlvm.errors import GuestError, MachineError, ProgramError
from mlvm.machine import ssh_config
from mlvm.machine.channel import PORTS
from mlvm.machine.record import Record
from mlvm.machine.vagrant import layout
from mlvm.paths import make_private, socket_path

#: The folder of the agent's sockets in the guest.
INSIDE = "/run/mlvm/agent"
LOOPBACK = "127.0.0.1"
#: Seconds for a connection, on a busy host under emulation, and for a word to the process that has it.
CONNECT, WORD = 180.0, 30.0
#: How often another free port is tried when somebody has just taken one.
TRIES = 5
_FORWARDS = "forwards.json"


def write_config(record: Record, told: Mapping[str, Any]) -> None:
    """Write the machine's ssh_config from what Vagrant says of it, for the one host key that its Vagrantfile made."""
    kind, blob, *_ = (layout.keys(record) / "host.pub").read_text().split()
    known = record.folder / "known_hosts"
    files.write_whole(known, f"{ssh_config.alias(record.name)} {kind} {blob}\n", mode=0o600)
    text = ssh_config.text(
        record.name,
        host=str(told["HostName"]),
        port=int(told["Port"]),
        user=str(told["User"]),
        known_hosts=known,
        identity=layout.keys(record) / "user",
        more={"ConnectTimeout": "60", "ServerAliveInterval": "30", "ServerAliveCountMax": "6"},
    )
    files.write_whole(layout.ssh_config(record), text, mode=0o600)


def command(record: Record) -> list[str]:
    """Return how ssh is called for this machine; it takes the open connection if there is one."""
    control = record.home.sockets(record.name) / "ssh.sock"
    return ["ssh", "-F", str(layout.ssh_config(record)), "-S", str(control)]


def alive(record: Record) -> bool:
    """Tell whether the connection is open, as far as the host knows."""
    control = record.home.sockets(record.name) / "ssh.sock"
    if not control.exists() or not layout.ssh_config(record).exists():
        return False
    return bool(_say(record, "check").returncode == 0)


def ensure(record: Record) -> None:
    """Open the connection, unless it is open. Raises MachineError with what ssh says."""
    if not alive(record):
        _open(record)
        _lead_again(record)


def close(record: Record) -> None:
    """End the connection; what went through it is remembered, and led again by `ensure`."""
    if alive(record):
        _say(record, "exit")
    control = record.home.sockets(record.name) / "ssh.sock"
    control.unlink(missing_ok=True)


def forget(record: Record) -> None:
    """Forget which ports were led."""
    (record.home.sockets(record.name) / _FORWARDS).unlink(missing_ok=True)


def run(record: Record, script: str, *, stdin: bytes = b"", seconds: float = CONNECT) -> bytes:
    """Run a shell script as root in the guest and return what it says. Raises GuestError with its last words."""
    words = [*command(record), ssh_config.alias(record.name), "sudo", "-n", "sh", "-c", shlex.quote(script)]
    try:
        done = process.run(words, stdin=stdin, timeout=seconds, check=False)
    except ProgramError as slow:
        raise GuestError(f"machine `{record.name}` does not answer in {seconds:.0f} s") from slow
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise GuestError(f"machine `{record.name}` cannot do what it is asked", details=said[-2000:])
    return done.stdout


def forward(record: Record, guest_ports: Mapping[str, int], host_ports: Mapping[str, int]) -> dict[str, int]:
    """Lead ports of the host to ports of the guest; return name -> host port. Raises MachineError for a taken one."""
    led = _forwards(record)
    fixed = {name: host_ports[name] for name in guest_ports if host_ports.get(name)}
    for name, port in fixed.items():
        if led.get(port) not in (None, guest_ports[name]):
            raise _taken(port, guest_ports[name], "this machine leads it elsewhere")
    for attempt in range(TRIES):
        found = {**_free([name for name in guest_ports if name not in fixed]), **fixed}
        new = {found[name]: port for name, port in guest_ports.items() if found[name] not in led}
        said = _lead(record, new)
        if not said:
            _save(record, {**led, **new})
            return {name: found[name] for name in guest_ports}
        _unlead(record, new)
        if taken := next((name for name, port in fixed.items() if port in new and not _is_free(port)), None):
            raise _taken(fixed[taken], guest_ports[taken], said)
        if attempt + 1 == TRIES:
            raise MachineError(
                f"ports of machine `{record.name}` cannot be reached", details=said, hint="mlvm status"
            )
    raise AssertionError("unreachable")


def unforward(record: Record, ports: Sequence[int]) -> None:
    """Lead these ports of the host nowhere any more."""
    led = _forwards(record)
    gone = {port: led[port] for port in ports if port in led}
    if gone:
        _save(record, {port: guest for port, guest in led.items() if port not in gone})
        if alive(record):
            _unlead(record, gone)


def _open(record: Record) -> None:
    make_private(record.home.runtime)
    sockets = make_private(record.home.sockets(record.name))
    control = socket_path(sockets, "ssh.sock")
    control.unlink(missing_ok=True)
    agents = [
        word
        for number in range(PORTS)
        for word in ("-L", f"{sockets}/agent-{number}.sock:{INSIDE}/agent-{number}.sock")
    ]
    log = layout.tunnel_log(record)
    log.unlink(missing_ok=True)
    child = process.start_detached(
        [
            "ssh", "-F", layout.ssh_config(record), "-S", control, "-M", "-N", "-T",
            "-o", "ControlPersist=no", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
            "-o", "StreamLocalBindUnlink=yes", *agents, ssh_config.alias(record.name),
        ],
        log_file=log,
    )  # fmt: skip
    # Reaps it if it ends before we do; nothing waits for this thread.
    threading.Thread(target=child.wait, name=f"ssh {child.pid}", daemon=True).start()
    deadline = time.monotonic() + CONNECT
    while not (control.exists() and alive(record)):
        if child.poll() is not None or time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                child.terminate()
            raise _refused(record, log)
        time.sleep(0.02)


def _refused(record: Record, log: Path) -> MachineError:
    said = log.read_text(errors="replace").strip()
    if "HOST IDENTIFICATION HAS CHANGED" in said or "Host key verification failed" in said:
        return MachineError(
            f"machine `{record.name}` shows another host key than the one that was made for it",
            details=said,
            hint="somebody else may answer in its place; if you know why, "
            f"`mlvm destroy {record.name}` and `mlvm up --provider vagrant`",
        )
    return MachineError(
        f"machine `{record.name}` cannot be reached by ssh",
        details=said or "it did not answer in time",
        hint=f"mlvm stop {record.name} && mlvm up --name {record.name}",
    )


def _lead_again(record: Record) -> None:
    """Lead what was led before the connection was opened anew; a port that somebody took meanwhile is given up."""
    led = _forwards(record)
    if led and _lead(record, led):
        _unlead(record, led)
        _save(record, {host: guest for host, guest in led.items() if not _lead(record, {host: guest})})


def _lead(record: Record, ports: Mapping[int, int]) -> str:
    """Lead ports; return what ssh says if that fails."""
    if not ports:
        return ""
    done = _say(record, "forward", _words(ports))
    return "" if done.returncode == 0 else done.stderr.decode(errors="replace").strip() or "no reason given"


def _unlead(record: Record, ports: Mapping[int, int]) -> None:
    for host, guest in ports.items():
        _say(record, "cancel", _words({host: guest}))


def _words(ports: Mapping[int, int]) -> list[str]:
    return [
        word for host, guest in ports.items() for word in ("-L", f"{LOOPBACK}:{host:d}:{LOOPBACK}:{guest:d}")
    ]


def _say(record: Record, word: str, more: Sequence[str] = ()) -> Any:
    """Say a word to the process that has the connection."""
    said = [*command(record), "-O", word, *more, ssh_config.alias(record.name)]
    return process.run(said, check=False, timeout=WORD)


def _free(names: Sequence[str]) -> dict[str, int]:
    """Return a free port of the host for each name, all different; somebody may take one before we do."""
    held = {name: socket.socket() for name in names}
    try:
        for one in held.values():
            one.bind((LOOPBACK, 0))
        return {name: int(one.getsockname()[1]) for name, one in held.items()}
    finally:
        for one in held.values():
            one.close()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _taken(port: int, guest_port: int, said: str) -> MachineError:
    return MachineError(
        f"port {port} of this host is taken: port {guest_port} of the machine cannot be reached there",
        details=said,
        hint=f"`ss -tlnp sport = {port}` shows by whom; or choose another `host` port in mlvm.yaml",
    )


def _forwards(record: Record) -> dict[int, int]:
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((record.home.sockets(record.name) / _FORWARDS).read_text())
        return {int(host): int(guest) for host, guest in found.items()}
    return {}


def _save(record: Record, led: Mapping[int, int]) -> None:
    files.write_whole(record.home.sockets(record.name) / _FORWARDS, json.dumps(led), mode=0o600)
