"""The layer of the Debian packages a spec asks for: unpacked and configured by dpkg, on top of the system layer.

These packages need their scripts (alternatives, users, caches), and nobody can know all of them beforehand as is done
for the system. So the tree's own dpkg runs in it, in a place that is cut off: no network, no processes but its own, no
host but a copy of the system layer, and root only there. What it changed is the layer.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mlvm
from mlvm import process
from mlvm.download import Blobs
from mlvm.errors import BuildError, ProgramError
from mlvm.image import apt_inside
from mlvm.image.sources import checked_blob
from mlvm.image.tools import Tools
from mlvm.lock.document import DebianPackage

#: Seconds that scripts may take; a compiler with all its libraries is a matter of half a minute.
PATIENCE = 3600
_APART = ("--mount", "--pid", "--fork", "--net", "--uts", "--ipc", "--kill-child")


def make_apt(
    packages: Sequence[DebianPackage], blobs: Blobs, path: Path, *, system: Path, tools: Tools
) -> None:
    """Write the layer to `path`. Raises BuildError, with the last words of the script that failed."""
    order = {
        "system": str(system),
        "tools": str(tools.folder),
        "target": str(path),
        "scratch": str(path.parent / "apt"),
        "debs": {
            package.name: str(checked_blob(package.name, package.sha256, blobs)) for package in packages
        },
    }
    command = ["unshare", *_APART, *_mapping(), sys.executable, "-P", "-m", apt_inside.__name__]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(Path(mlvm.__file__).parents[1]),
    }
    done = process.run(
        command, env=environment, stdin=json.dumps(order).encode(), timeout=PATIENCE, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip().splitlines()
        raise BuildError(
            "the packages in `apt` cannot be set up",
            details="\n".join(said[-12:]),
            hint="`mlvm doctor` says whether this user may make namespaces; else a package's script failed",
        )


def _mapping() -> list[str]:
    """Return how to be root in there: as root one is, everybody else needs a range of user ids of his own."""
    if os.getuid() == 0:
        return []
    if process.find_program("newuidmap") is None:
        raise ProgramError(
            "`newuidmap` is not installed; without it only root can set up packages in `apt`",
            hint="sudo apt-get install uidmap",
        )
    return ["--user", "--map-root-user", "--map-auto"]
