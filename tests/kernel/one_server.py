"""A process that starts a kernel, sets a variable in it, says so, and stays until it is killed."""

from __future__ import annotations

import json
import signal
import sys

import agent_world
import test_keeping

record = agent_world.enter(agent_world.World.folder)
kernel = test_keeping.start(record)
client = test_keeping.ready(kernel.connection)  # type: ignore[attr-defined]
test_keeping.hear(client, client.execute("kept = 41"))
sys.stdout.write(json.dumps({"kernel_id": kernel.process.kernel_id}) + "\n")
sys.stdout.flush()
signal.pause()
