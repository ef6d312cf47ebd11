"""The rest of the boot, which the agent does not wait for but programs do.

The agent answers before the guest has cleaned /tmp or has an address: early enough to say that the guest
lives, too early for anybody's program. So what users run waits until the boot has settled; what root runs
does not, since that is how one looks at a boot that does not settle.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time

#: Seconds after which a boot counts as settled whatever it does.
LIMIT = 60.0


class Boot:
    """Whether the boot has settled."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._settled = threading.Event()

    def watch(self) -> None:
        """Begin to wait for the boot, in the background."""
        threading.Thread(target=self._watch, daemon=True).start()

    def skip(self) -> None:
        """Take it for settled: there is no boot to wait for."""
        self._settled.set()

    def wait(self) -> None:
        """Return once the boot has settled."""
        self._settled.wait(LIMIT)

    def _watch(self) -> None:
        quiet = subprocess.DEVNULL
        deadline = time.monotonic() + LIMIT
        try:
            # A start job for what is being started already waits for that.
            subprocess.run(
                ["systemctl", "start", "basic.target"],
                stdin=quiet,
                stdout=quiet,
                stderr=quiet,
                timeout=LIMIT,
                check=False,
            )
            while not has_address(self._address) and time.monotonic() < deadline:
                time.sleep(0.05)
        except (OSError, subprocess.SubprocessError):
            pass  # no systemd, or one that hangs: whoever asks will see
        finally:
            self._settled.set()


def has_address(address: str) -> bool:
    """Tell whether an address is ours, which is when a program may listen there."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
