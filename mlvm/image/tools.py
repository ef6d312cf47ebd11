"""The file system tools that make an image: pinned by the lock, run through their own loader.

What mkfs writes depends on its version, so the lock names the packages it comes from and they are unpacked into the
store. Started through the C library that came with them, with an empty environment, they do the same on every host
with a Linux kernel, whatever its distribution.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess  # noqa: TID251  (a type)
from typing import IO

from mlvm import process
from mlvm.errors import BuildError

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"


@dataclass(frozen=True, slots=True)
class Tools:
    """The tools unpacked in `folder`."""

    folder: Path

    def run(
        self,
        program: str,
        arguments: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> CompletedProcess[bytes]:
        """Run `program` ("mkfs.erofs") to its end, with `env` beside the little it always gets.

        Raises ProgramError with its last words.
        """
        environment = {**self._environment(), **(env or {})}
        return process.run([*self.command(program), *arguments], env=environment, timeout=timeout)

    def feed(
        self, program: str, arguments: Sequence[str | os.PathLike[str]]
    ) -> AbstractContextManager[IO[bytes]]:
        """Run `program` while the block writes what it reads. Raises ProgramError with its last words."""
        return process.feed([*self.command(program), *arguments], env=self._environment())

    def _environment(self) -> dict[str, str]:
        # mke2fs would read the host's /etc/mke2fs.conf; SOURCE_DATE_EPOCH would change what mkfs.erofs writes.
        return {"LC_ALL": "C.UTF-8", "MKE2FS_CONFIG": str(self.folder / "etc/mke2fs.conf")}

    def command(self, program: str, place: Path | None = None) -> list[Path | str]:
        """Return the beginning of a command line that runs `program`, which is at `place` or where programs are.

        Raises BuildError when it is not here.
        """
        libraries = self.folder / LIBRARIES
        found = place if place and place.exists() else self._find(program)
        return [self.folder / LOADER, "--inhibit-cache", "--library-path", libraries, found]

    def _find(self, program: str) -> Path:
        for folder in ("usr/sbin", "usr/bin"):
            if (path := self.folder / folder / program).exists():
                return path
        raise BuildError(
            f"the tools of this lock have no `{program}`",
            hint="mlvm lock --upgrade writes a lock with all tools this mlvm needs",
        )
