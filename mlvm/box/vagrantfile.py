"""The Vagrantfile of a project: a fixed text, and a few constants before it.

The text is Ruby that nobody's value is pasted into: what differs from project to project stands in constants, each a
literal (`ruby.literal`). Below the mark the file is the user's; it is kept, byte by byte, when the rest is written
anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mlvm.box.ruby import literal
from mlvm.errors import MlvmError
from mlvm.lock.document import Lock
from mlvm.lock.text import dumps
from mlvm.paths import shipped
from mlvm.spec.document import MIB, Spec

NAME = "Vagrantfile"
MARK = "# ---- mlvm: everything above this line is written anew by `mlvm vagrant init`; what is below is yours ----\n"
_BELOW = """\

# What is said here counts more than what is said above, for example:
#
# Vagrant.configure("2") do |config|
#   config.vm.provision "shell", inline: "apt-get update"
# end
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """A catalog by its address, the box's name and version in it."""

    url: str
    name: str
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxFile:
    """A box by its address (or path beside the Vagrantfile) and the digest that it must have."""

    url: str
    sha256: str


def render(spec: Spec, lock: Lock, *, boxes: Mapping[str, BoxFile], catalog: Catalog | None = None) -> str:
    """Return what stands above the mark, the mark included; `boxes` are by provider."""
    settings = {
        "BOX": catalog.name if catalog else box_name(lock),
        "CATALOG": catalog.url if catalog else None,
        "VERSION": catalog.version if catalog else None,
        "BOXES": {provider: [box.url, box.sha256] for provider, box in sorted(boxes.items())},
        "CPUS": spec.machine.cpus,
        "GPU": spec.machine.gpu,
        "MEMORY": -(-spec.machine.memory // MIB),
        "PORTS": {forward.guest: forward.host for forward in spec.ports},
        "NAME": spec.name,
    }
    lines = "\n".join(f"MLVM_{name} = {literal(value)}.freeze" for name, value in settings.items())
    template = (shipped("templates") / NAME).read_text()
    head, _, rest = template.partition("{{settings}}")
    return head + lines + rest + "\n" + MARK


def write(folder: Path, text: str) -> Path:
    """Write a Vagrantfile of ours into `folder`, keeping what stands below the mark of the one that is there.

    Raises MlvmError for one that is not ours: nothing of it would be kept.
    """
    from mlvm.files import write_whole  # noqa: PLC0415

    path = folder / NAME
    below = _BELOW.encode()
    if path.exists():
        found = path.read_bytes()
        _, mark, below = found.partition(MARK.encode())
        if not mark:
            raise MlvmError(
                f"`{path}` is not from `mlvm vagrant init`, or has lost its mark",
                hint="move it away, run this again, and put what you need of it below the mark",
            )
    write_whole(path, text.encode() + below)
    return path


def box_name(lock: Lock) -> str:
    """Return a name that is another one for another lock: Vagrant asks no more once it has a box of that name."""
    unpublished = replace(lock, published=())  # a box is the same box after it was published
    return f"mlvm/{lock.name}-{hashlib.sha256(dumps(unpublished).encode()).hexdigest()[:12]}"


def box_files(lock: Lock, folder: Path, *, url: str | None, beside: Path) -> dict[str, BoxFile]:
    """Return the boxes of a lock in `folder`, by provider, as `mlvm box export` names them.

    They are to be had below `url`; without one, from `folder` itself, as seen from the folder `beside`.
    """
    from mlvm.box.providers import KINDS  # noqa: PLC0415
    from mlvm.files import sha256_of  # noqa: PLC0415

    found = {}
    for provider in KINDS:
        path = folder / f"{lock.name}-{provider}.box"
        if path.is_file():
            place = f"{url.rstrip('/')}/{path.name}" if url else _seen_from(path, beside)
            found[provider] = BoxFile(url=place, sha256=sha256_of(path))
    return found


def _seen_from(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
