"""Clients that hear what a kernel says from the beginning."""

from __future__ import annotations

import time
from queue import Empty

from jupyter_client import BlockingKernelClient

QUIET = 0.2  # seconds in which nothing comes


def ready(client: BlockingKernelClient, *, timeout: float) -> None:
    """Wait until a kernel answers and its outputs are heard.

    `wait_for_ready` asks on one channel and takes silence on the other for "nothing was said"; on a busy host a
    subscription arrives seconds after the first request, and what a cell printed before is gone. So the kernel is
    asked until its answer is heard on both.
    """
    deadline = time.monotonic() + timeout
    client.wait_for_ready(timeout=timeout)
    while not heard(client):
        assert time.monotonic() < deadline, "the kernel answers, but none of its outputs is heard"


def heard(client: BlockingKernelClient) -> bool:
    """Ask the kernel, and return whether anything came on iopub, all of which is taken out."""
    client.kernel_info(reply=True, timeout=60)
    anything = False
    try:
        while True:
            client.get_iopub_msg(timeout=QUIET if anything else 1)
            anything = True
    except Empty:
        return anything
