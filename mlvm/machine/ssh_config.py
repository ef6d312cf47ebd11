"""An ssh_config that says everything, so that none of the user's own settings matter, and trusts nobody on first use.

A machine's own name is its host key's alias: addresses and ports change, and localhost is everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlvm.errors import MachineError


def alias(name: str) -> str:
    """Return the name ssh knows a machine by."""
    return f"mlvm-{name}"


def text(
    name: str,
    *,
    host: str,
    port: int,
    user: str,
    known_hosts: Path,
    identity: Path,
    more: Mapping[str, str] | None = None,
) -> str:
    """Return the ssh_config of machine `name`."""
    settings = {
        "HostName": host,
        "Port": str(port),
        "User": user,
        "HostKeyAlias": alias(name),
        "UserKnownHostsFile": quoted(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "HostKeyAlgorithms": "ssh-ed25519",
        "IdentityFile": quoted(identity),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "LogLevel": "ERROR",
        **(more or {}),
    }
    return "\n".join([f"Host {alias(name)}", *(f"  {key} {value}" for key, value in settings.items())]) + "\n"


def quoted(path: Path) -> str:
    """Return a path as ssh_config takes it: in quotes, `%` doubled; what cannot be said there is refused."""
    said = str(path)
    if '"' in said or "\n" in said or "\\" in said:
        raise MachineError(
            f"`{said}` cannot be written in an ssh_config", hint="set MLVM_HOME to a plainer folder"
        )
    return '"' + said.replace("%", "%%") + '"'
