"""The agent, brought into a machine that boots without it, once after each boot.

A box is the same for everybody and knows nothing of mlvm's version, so the agent comes by ssh: a tar of a few files.
Its sockets are in a folder that only the box's user may enter, who is root there by `sudo` anyway; kernels listen on
the guest's own loopback.
"""

from __future__ import annotations

import io
import tarfile

from mlvm.errors import GuestError
from mlvm.image.agent_layer import UNIT, agent_sources
from mlvm.machine.channel import PORTS
from mlvm.machine.record import Record
from mlvm.machine.vagrant import tunnel

USER = "vagrant"
FOLDER = "/run/mlvm/agent-program"
#: Unless it runs: unpack it, start it as a service of its own, let the user have its sockets.
SCRIPT = f"""\
set -eu
umask 022
if systemctl -q is-active {UNIT} && [ -S {tunnel.INSIDE}/agent-{PORTS - 1}.sock ]; then
    cat > /dev/null
    exit 0
fi
rm -rf {FOLDER} {tunnel.INSIDE}
mkdir -p {FOLDER}
tar -x -C {FOLDER}
install -d -m 0700 -o {USER} -g {USER} {tunnel.INSIDE}
systemctl -q reset-failed {UNIT} 2> /dev/null || true
systemd-run --quiet --collect --unit={UNIT} -p KillMode=mixed -p OOMPolicy=continue -p TasksMax=infinity \\
    -p LimitNOFILE=65536 -p TimeoutStopSec=10 /usr/bin/python3 -I -S {FOLDER}/agent/main.py \\
    --sockets {tunnel.INSIDE} --user {USER} --kernel-ip {tunnel.LOOPBACK}
for _ in $(seq 600); do
    [ ! -S {tunnel.INSIDE}/agent-{PORTS - 1}.sock ] || break
    sleep 0.1
done
chown {USER} {tunnel.INSIDE}/*.sock
"""


def bring(record: Record) -> None:
    """Have the agent run in the guest. Raises GuestError."""
    try:
        tunnel.run(record, SCRIPT, stdin=_packed())
    except GuestError as failed:
        raise GuestError(
            f"the agent does not start in machine `{record.name}`",
            details=failed.details or failed.message,
            hint=f"mlvm stop {record.name} && mlvm up --name {record.name}",
        ) from None


def _packed() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in agent_sources().items():
            if name != UNIT:
                entry = tarfile.TarInfo(f"agent/{name}")
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
