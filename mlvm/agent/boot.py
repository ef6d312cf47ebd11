"""The rest of the boot, which the agent does not wait for but programs do.

The agent answers long before the boot is over: early enough to say that the guest lives, too early for a program that
may want D-Bus or sudo. So what users run waits until the boot has settled; what root runs does not, since that is how
one looks at a boot that does not settle. A Jupyter kernel needs no more than an address: the seconds in which it
imports are those in which the boot settles.
"""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from contextlib import suppress

#: Seconds after which a boot counts as settled whatever it does.
LIMIT = 60.0


class Boot:
    """Whether the boot has settled; found out when somebody asks for the first time."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._guard = threading.Lock()
        self._settled = False

    def skip(self) -> None:
        """Take it for settled: there is no boot to wait for."""
        self._settled = True

    def wait(self) -> None:
        """Return once the boot has settled."""
        with self._guard:
            if self._settled:
                return
            quiet = subprocess.DEVNULL
            # A start job for what is being started already waits for that. No systemd, or one that hangs: whoever
            # asks will see.
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(
                    ["systemctl", "start", "basic.target"],
                    stdin=quiet,
                    stdout=quiet,
                    stderr=quiet,
                    timeout=LIMIT,
                    check=False,
                )
            self.wait_for_address()
            self._settled = True

    def wait_for_address(self) -> None:
        """Return once the guest has its address."""
        deadline = time.monotonic() + LIMIT
        while not self._settled and not has_address(self._address) and time.monotonic() < deadline:
            time.sleep(0.02)


def has_address(address: str) -> bool:
    """Tell whether an address is ours, which is when a program may listen there."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
