"""The standalone launcher in a machine that is a folder of this host: `python launcher.py FOLDER CONNECTION_FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import agent_world  # noqa: E402

from mlvm.kernel import standalone  # noqa: E402

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    agent_world.enter(folder)
    words = ["--project", str(folder / "project"), "--machine", agent_world.MACHINE, sys.argv[2]]
    raise SystemExit(standalone.main(words))
