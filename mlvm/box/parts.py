"""What a box has and the image has not: made like the image's parts, by the lock alone, and kept in the store.

A box's layers are the image's `system` and `python` as they are, the modules of the guest kernel that has drivers for
every hypervisor, and the box layer. The agent stays out: it comes with mlvm, not from the lock, and the same lock must
give the same box.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mlvm.box import boot, layer
from mlvm.box.disk import Boot
from mlvm.download import fetch
from mlvm.errors import BuildError, LockError
from mlvm.events import Observer
from mlvm.image.bytecode import interpreter_packages
from mlvm.image.document import Artifact, Image, Step
from mlvm.image.erofs import make_erofs
from mlvm.image.erofs_reader import ErofsReader
from mlvm.image.initramfs import BUSYBOX
from mlvm.image.modules import GuestKernel, guest_kernel_in, kernel_release
from mlvm.image.modules_layer import make_modules
from mlvm.image.plan import debs_of, make_step
from mlvm.image.store import Store
from mlvm.image.tools import Tools
from mlvm.image.tree import SOURCE_DATE
from mlvm.image.unpacked import unpack_tools
from mlvm.lock.debian import box_kernel_name
from mlvm.lock.document import DebianPackage, Lock
from mlvm.lock.mirrors import wanted_debs

#: In every id here: when what is made of the same lock changes, this goes up.
BOX_BUILDER = 1
LAYERS = ("system", "modules", "python", "box")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """All that a box's disk consists of; `python` is a command line that begins the guest's interpreter."""

    boot: Boot
    layers: tuple[Artifact, ...]
    tools: Tools
    python: tuple[str, ...]
    python_home: str


@dataclass
class MakingBox:
    """One run. Raises LockError for a lock of an mlvm that knew no boxes."""

    lock: Lock
    image: Image
    store: Store
    observer: Observer

    def __post_init__(self) -> None:
        self._kernel_package = box_kernel_name(self.lock.guest_kernel)
        if self._kernel_package not in {package.name for package in self.lock.box}:
            raise LockError(
                f"the lock of `{self.lock.name}` does not say what boots a box",
                hint="`mlvm lock` adds it, and moves nothing else",
            )

    def run(self) -> Parts:
        """Return the parts, making those that are not in the store."""
        self._fetch()
        own = {artifact.name: artifact for artifact in self.image.layers}
        debs = debs_of(self._kernel_debs)
        modules = self._part(
            self._step("box-modules", {"debs": debs, "left_out": boot.LEFT_OUT.pattern}), self._make_modules
        )
        vmlinuz = self._part(self._step("box-vmlinuz", {"debs": debs}), self._make_vmlinuz)
        initramfs = self._part(
            self._step(
                "box-initramfs",
                {
                    "debs": debs,
                    "busybox": debs_of([one for one in self.lock.boot if one.name == BUSYBOX]),
                    "wanted": boot.WANTED,
                    "init": hashlib.sha256(boot.init_script()).hexdigest(),
                },
            ),
            self._make_initramfs,
        )
        tree = layer.make_box_layer(self._read_system)
        texts = {path: [node.mode, node.link, hashlib.sha256(b"".join(node.pieces())).hexdigest()]
                 for path, node in tree.ordered()}  # fmt: skip
        box = self._part(
            self._step("box-layer", {"tree": hashlib.sha256(json.dumps(texts).encode()).hexdigest()}),
            lambda path: make_erofs(tree, path, name="box", tools=self.tools),
        )
        layers = (own["system"], modules, own["python"], box)
        named = tuple(
            Artifact(name=name, id=found.id, path=found.path, sha256=found.sha256, size=found.size)
            for name, found in zip(LAYERS, layers, strict=True)
        )
        with tempfile.TemporaryDirectory(dir=self.store.folder, prefix=".tmp-grub-") as scratch:
            booting = boot.make_boot(
                vmlinuz.path.read_bytes(), initramfs.path.read_bytes(),
                layers=LAYERS, tools=self.box_tools, scratch=Path(scratch),
            )  # fmt: skip
        interpreter = self._unpacked("interpreter", interpreter_packages(self.lock))
        return Parts(
            boot=booting,
            layers=named,
            tools=self.tools,
            python=tuple(
                str(word) for word in Tools(interpreter).command(f"python{self.lock.system_python}")
            ),
            python_home=str(interpreter / "usr"),
        )

    @property
    def tools(self) -> Tools:
        """The image's file system tools."""
        return Tools(self.image.tools)

    @property
    def box_tools(self) -> Tools:
        """GRUB, and what it needs."""
        packages = [one for one in self.lock.box if one.name != self._kernel_package]
        return Tools(self._unpacked("box-tools", packages))

    @property
    def _kernel_debs(self) -> list[DebianPackage]:
        return [one for one in self.lock.box if one.name == self._kernel_package]

    @cached_property
    def _guest_kernel(self) -> GuestKernel:
        release = box_kernel_name(kernel_release(self.lock))
        found = guest_kernel_in(self._kernel_debs, release, self.store.blobs)
        kept = {path: content for path, content in found.modules.items() if not boot.LEFT_OUT.match(path)}
        return replace(found, modules=kept)

    def _fetch(self) -> None:
        busybox = [one for one in self.lock.boot if one.name == BUSYBOX]
        wanted = [*self.lock.box, *busybox, *interpreter_packages(self.lock)]
        fetch(wanted_debs(self.lock, wanted), self.store.blobs, observer=self.observer)

    def _step(self, name: str, inputs: dict[str, object]) -> Step:
        return make_step(
            name,
            {"box": BOX_BUILDER, "source_date": SOURCE_DATE, "tools": debs_of(self.lock.tools), **inputs},
        )

    def _part(self, step: Step, make: Callable[[Path], None]) -> Artifact:
        found = self.store.find_artifact(step.id)
        if found is None:
            with self.store.making(step.id, waiting=lambda: self._waiting(step.name)):
                found = self.store.find_artifact(step.id)
                if found is None:
                    with self.store.new_artifact(step.id, step.name) as content:
                        make(content)
                    found = self.store.find_artifact(step.id)
        if found is None:
            raise BuildError(f"`{step.name}` was made and is gone again", hint="mlvm box export, once more")
        return found

    def _unpacked(self, name: str, packages: list[DebianPackage] | tuple[DebianPackage, ...]) -> Path:
        step = make_step(name, {"debs": debs_of(packages)})
        folder = self.store.tools_folder(step.id)
        if not folder.is_dir():
            with self.store.making(step.id, waiting=lambda: self._waiting(name)):
                if not folder.is_dir():
                    unpack_tools(packages, self.store.blobs, folder)
        return folder

    def _waiting(self, what: str) -> None:
        self.observer.note(f"waiting: another mlvm is making `{what}`")

    def _read_system(self, path: str) -> bytes:
        system = next(one for one in self.image.layers if one.name == "system")
        reader = ErofsReader(system.path)
        try:
            return reader.read(path)
        finally:
            reader.close()

    def _make_modules(self, path: Path) -> None:
        tree = make_modules(self._guest_kernel, self.tools, scratch=path.parent)
        make_erofs(tree, path, name="box-modules", tools=self.tools)

    def _make_vmlinuz(self, path: Path) -> None:
        path.write_bytes(self._guest_kernel.vmlinuz)

    def _make_initramfs(self, path: Path) -> None:
        path.write_bytes(boot.make_box_initramfs(self.lock, self.store.blobs, self._guest_kernel))
