"""Layer, plan and image: the nouns of building, as frozen data.

A *layer* is named by the digest of its inputs (its id) and holds the digest of its bytes. An *image* is an ordered
list of layers plus guest kernel and initramfs; its id is made from the ids of its parts, so it is known before a byte
is built. `builder` is in every id: when the code that makes layers changes what it makes, BUILDER goes up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: 2: bytecode, the cache of shared libraries, PAM from its own templates.
#: 3: files keep their times, a layer's root is 0755, the system layer is as mmdebstrap would make it.
#: Also, a boot without what a guest can do without.
#: 4: no bytecode of packages' own tests.
BUILDER = 4

#: Names of the layers, lowest first. The guest's root is an overlayfs of them, a later one hiding an earlier one.
LAYERS = ("system", "modules", "apt", "cuda", "python", "agent")
#: Those that only some images have.
OPTIONAL_LAYERS = frozenset({"apt", "cuda"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing to build.

    `name` is "system", "python", "vmlinuz", "initramfs" ...; `id` the digest of its inputs (64 hex digits); `inputs`
    what the id was made of, for `mlvm show plan`.
    """

    name: str
    id: str
    inputs: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What will be built for a lock, in order, and the id of the image it will be."""

    image_id: str
    steps: tuple[Step, ...]

    def step(self, name: str) -> Step:
        """Return the step called `name`."""
        return next(step for step in self.steps if step.name == name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A built thing in the store: a layer (erofs), a guest kernel or an initramfs; `size` in bytes."""

    name: str
    id: str
    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A built image. `layers` are lowest first; `tools` is the folder of the pinned file system tools."""

    id: str
    name: str
    python: str
    debian: str
    kernel_release: str
    layers: tuple[Artifact, ...]
    vmlinuz: Artifact
    initramfs: Artifact
    tools: Path

    @property
    def forks_kernels(self) -> bool:
        """Whether a kernel can be ready before it knows its keys: the last ipykernel for Python 3.9 cannot."""
        return self.python != "3.9"

    def digests(self) -> dict[str, str]:
        """Name -> sha256 of the bytes of every part; equal for equal locks, on any machine."""
        return {part.name: part.sha256 for part in (*self.layers, self.vmlinuz, self.initramfs)}
