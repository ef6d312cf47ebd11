"""SSH without trust on first use: every key a machine needs is made on the host, before its first boot.

The guest's host key is put in by the agent, so `known_hosts` is right from the first connection on and
StrictHostKeyChecking stays on. The machine's own name is the key's alias: ports change, and localhost is
everybody.
"""

from __future__ import annotations

from pathlib import Path

from mlvm import process
from mlvm.files import write_whole
from mlvm.machine import ssh_config

HOST_KEY = "ssh_host_ed25519_key"
USER_KEY = "id_ed25519"
KNOWN_HOSTS = "known_hosts"
CONFIG = "ssh_config"


def make_keys(folder: Path, name: str) -> None:
    """Make the host key, the user's key and `known_hosts` of machine `name` in its private folder."""
    for key in (HOST_KEY, USER_KEY):
        if not (folder / key).exists():
            process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mlvm", "-f", folder / key])
    kind, blob, *_ = (folder / f"{HOST_KEY}.pub").read_text().split()
    write_whole(folder / KNOWN_HOSTS, f"{ssh_config.alias(name)} {kind} {blob}\n", mode=0o600)


def write_config(folder: Path, name: str, *, port: int, user: str = "mlvm") -> Path:
    """Write the machine's ssh_config for its present port and return its path."""
    path = folder / CONFIG
    write_whole(path, config_text(folder, name, port=port, user=user), mode=0o600)
    return path


def config_text(folder: Path, name: str, *, port: int, user: str) -> str:
    """Return an ssh_config that says everything, so that none of the user's own settings matter."""
    return ssh_config.text(
        name,
        host="127.0.0.1",
        port=port,
        user=user,
        known_hosts=folder / KNOWN_HOSTS,
        identity=folder / USER_KEY,
    )
