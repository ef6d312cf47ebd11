"""What the contestants of a cold start have in common: a clock, and the first cell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty

from jupyter_client import BlockingKernelClient

#: What a person types to begin with.
CELL = "1 + 1"
DEADLINE = 600.0


class Clock:
    """Seconds since the start, and QEMU's processor seconds, under names."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seconds: dict[str, float] = {}

    def mark(self, name: str, pid: int | None) -> None:
        """Note that `name` has come to pass."""
        self.seconds[name] = time.monotonic() - self.began
        if pid is not None:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            self.seconds[f"{name} cpu"] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def first_cell(client: BlockingKernelClient, ended: Callable[[], object]) -> None:
    """Run a cell in a kernel that is just starting, and wait for its reply."""
    client.start_channels(hb=False)
    try:
        asked = client.execute(CELL)
        began = time.monotonic()
        while ended() is None and time.monotonic() - began < DEADLINE:
            try:
                reply = client.get_shell_msg(timeout=1)
            except Empty:
                continue
            if reply["parent_header"].get("msg_id") == asked and reply["content"]["status"] == "ok":
                return
        raise RuntimeError("the cell was not run")
    finally:
        client.stop_channels()
