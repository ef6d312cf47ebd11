"""Run on the host and inside the guest alike: start a kernel, then time what each line of standard input asks for.

Arguments: the kernelspec's name, and "curve" where the connection shall be encrypted. A line of input is
"PAUSE CELLS CODE": wait so many seconds, then run the code so many times. Each answer is one line of JSON.
"""

from __future__ import annotations

import json
import queue
import sys
import time

from jupyter_client import BlockingKernelClient, KernelManager

PATIENCE = 150


def run_cell(client: BlockingKernelClient, code: str) -> int:
    """Run one cell to its end as a frontend does; return how many characters it printed."""
    request = client.execute(code)
    printed = 0
    while True:
        try:
            message = client.get_iopub_msg(timeout=PATIENCE)
        except queue.Empty:
            raise SystemExit(f"nothing came for {PATIENCE} s, after {printed} characters") from None
        if message["parent_header"].get("msg_id") != request:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            printed += len(content["text"])
        elif kind == "error":
            raise SystemExit("\n".join(content["traceback"]))
        elif kind == "status" and content["execution_state"] == "idle":
            break
    while client.get_shell_msg(timeout=PATIENCE)["parent_header"].get("msg_id") != request:
        pass
    return printed


def main(kernel: str, *words: str) -> None:
    """Serve standard input."""
    manager = KernelManager(kernel_name=kernel)
    if "curve" in words:
        manager.transport_encryption = "required"
    manager.start_kernel()
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE)
        print(json.dumps("ready"), flush=True)
        for line in sys.stdin:
            pause, cells, code = line.rstrip("\n").split(" ", 2)
            time.sleep(float(pause))
            began = time.monotonic()
            printed = sum(run_cell(client, code) for _ in range(int(cells)))
            print(json.dumps({"seconds": time.monotonic() - began, "printed": printed}), flush=True)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


main(*sys.argv[1:])
