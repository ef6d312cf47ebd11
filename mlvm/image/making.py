"""Make the parts of an image that the store does not have, side by side.

Apart from `build`, because that is asked by every `up` and most often finds the image made: then none of what makes
layers needs to be imported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mlvm.download import fetch
from mlvm.errors import StoreError
from mlvm.events import Observer, stage
from mlvm.image.agent_layer import make_agent
from mlvm.image.apt_layer import make_apt
from mlvm.image.bytecode import Compiler, interpreter_packages
from mlvm.image.document import Image, Plan, Step
from mlvm.image.erofs import make_erofs
from mlvm.image.initramfs import make_initramfs
from mlvm.image.modules import GuestKernel, kernel_release, read_guest_kernel
from mlvm.image.modules_layer import make_modules
from mlvm.image.plan import PARTS
from mlvm.image.python_layer import make_cuda, make_python
from mlvm.image.standalone import PREFIX, unpack_interpreter
from mlvm.image.store import ImageEntry, Store
from mlvm.image.system_layer import make_system
from mlvm.image.tools import Tools
from mlvm.image.unpacked import unpack_tools
from mlvm.lock.document import DebianPackage, Lock
from mlvm.lock.interpreters import wanted_interpreter
from mlvm.lock.mirrors import wanted_debs, wanted_wheels, wheel_digests

#: The order in which parts are begun: the slowest first.
ORDER = ("system", "cuda", "apt", "python", "modules", "initramfs", "vmlinuz", "agent")


@dataclass
class Making:
    """One run: what the parts share."""

    lock: Lock
    plan: Plan
    store: Store
    observer: Observer
    workers: int
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _done: int = 0

    def run(self) -> Image:
        self._fetch()
        with stage(self.observer, "build", self.lock.name) as outcome:
            with ThreadPoolExecutor(self.workers) as pool:
                unpacked = pool.submit(lambda: self.tools)  # every part needs both: first
                pool.submit(lambda: (self.compiler, self.own_compiler)).result()
                unpacked.result()
                steps = {step.name: step for step in self.plan.steps}
                jobs = [pool.submit(self._part, steps[name]) for name in ORDER if name in steps]
                try:
                    for job in jobs:
                        job.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            self.store.add_image(self._entry())
            image = self.store.find_image(self.plan.image_id)
            if image is None:
                raise StoreError("the image was built and is gone again", hint="mlvm build")
            outcome.append(f"image {image.id[:12]}")
        return image

    def _fetch(self) -> None:
        own = wanted_interpreter(self.lock.interpreter)
        wanted = [*wanted_debs(self.lock, self.lock.debs()), *own, *wanted_wheels(self.lock)]
        fetch(wanted, self.store.blobs, observer=self.observer)

    @cached_property
    def tools(self) -> Tools:
        """The pinned file system tools."""
        return Tools(self._unpacked("tools", self.lock.tools))

    @cached_property
    def compiler(self) -> Compiler:
        """The guest's own interpreter, for bytecode of the system and the agent."""
        return Compiler(
            folder=self._unpacked("interpreter", interpreter_packages(self.lock)),
            python=self.lock.system_python,
            id=self.plan.step("interpreter").id,
            cache=self.store.bytecode,
            workers=self.workers,
        )

    @cached_property
    def own_compiler(self) -> Compiler:
        """The interpreter of the box's kernels and packages, for their bytecode."""
        own = self.lock.interpreter
        if own is None:
            return self.compiler
        python = str(self.lock.inputs["python"])
        c_library = [package for package in interpreter_packages(self.lock) if package.name == "libc6"]
        also = lambda folder: unpack_interpreter(own, self.store.blobs, folder, python=python)  # noqa: E731
        return replace(
            self.compiler,
            folder=self._unpacked("own-interpreter", c_library, also=also),
            python=python,
            id=self.plan.step("own-interpreter").id,
            prefix=PREFIX,
        )

    def _unpacked(
        self, name: str, packages: Sequence[DebianPackage], *, also: Callable[[Path], None] | None = None
    ) -> Path:
        """Return the folder of programs that run on the host, unpacked once for all locks that name the same."""
        step = self.plan.step(name)
        folder = self.store.tools_folder(step.id)
        if not folder.is_dir():
            with self.store.making(step.id, waiting=lambda: self._waiting(name)):
                if not folder.is_dir():
                    unpack_tools(packages, self.store.blobs, folder, also=also)
        return folder

    def guest_kernel(self) -> GuestKernel:
        """The guest kernel, unpacked once for the parts that are made of it."""
        with self._guard:
            return self._guest_kernel

    @cached_property
    def _guest_kernel(self) -> GuestKernel:
        return read_guest_kernel(self.lock, self.store.blobs)

    def _part(self, step: Step) -> None:
        """Make one part, and say so."""
        self._ensure(step)
        with self._guard:
            self._done += 1
            done = self._done
        self.observer.stage_progress("build", done, len(self._part_names), step.name)

    def _ensure(self, step: Step, *, waiting: Callable[[], None] | None = None) -> None:
        """Make one part unless it is there; wait for whoever makes it now."""
        if self.store.find_artifact(step.id) is None:
            with self.store.making(step.id, waiting=waiting or (lambda: self._waiting(step.name))):
                if self.store.find_artifact(step.id) is None:
                    if self.store.artifact_folder(step.id).exists():
                        self.observer.note(f"`{step.name}` in the store is damaged: building it again")
                    with self.store.new_artifact(step.id, step.name) as content:
                        _MAKERS[step.name](self, content)

    @property
    def _part_names(self) -> list[str]:
        return [step.name for step in self.plan.steps if step.name in PARTS]

    def _waiting(self, what: str) -> None:
        self.observer.note(f"waiting: another mlvm is building `{what}`")

    def _entry(self) -> ImageEntry:
        ids = {step.name: step.id for step in self.plan.steps}
        own = self.lock.interpreter
        compiled = wheel_digests(self.lock) + ([own.sha256] if own else [])
        blobs = [*(package.sha256 for package in self.lock.debs()), *compiled]
        return ImageEntry(
            id=self.plan.image_id,
            name=self.lock.name,
            python=str(self.lock.inputs["python"]),
            debian=str(self.lock.inputs["debian"]),
            kernel_release=kernel_release(self.lock),
            parts={name: ids[name] for name in self._part_names},
            tools=ids["tools"],
            interpreter=ids["interpreter"],
            own_interpreter=ids.get("own-interpreter", ""),
            bytecode=tuple(self.own_compiler.cached(sha256).name for sha256 in compiled),
            blobs=tuple(sorted(set(blobs))),
        )

    def make_system(self, path: Path) -> None:
        """Make the system layer."""
        tree = make_system(self.lock, self.store.blobs, workers=self.workers, compiler=self.compiler)
        make_erofs(tree, path, name="system", tools=self.tools)

    def make_modules(self, path: Path) -> None:
        """Make the modules layer."""
        tree = make_modules(self.guest_kernel(), self.tools, scratch=path.parent)
        make_erofs(tree, path, name="modules", tools=self.tools)

    def make_python(self, path: Path) -> None:
        """Make the Python layer."""
        with ExitStack() as open_wheels:
            tree = make_python(self.lock, self.store.blobs, open_wheels, compiler=self.own_compiler)
            make_erofs(tree, path, name="python", tools=self.tools)

    def make_apt(self, path: Path) -> None:
        """Make the layer of the spec's own Debian packages, on top of the system layer."""
        system = self.plan.step("system")
        self._ensure(system, waiting=lambda: None)
        below = self.store.find_artifact(system.id)
        assert below is not None
        make_apt(self.lock.apt, self.store.blobs, path, system=below.path, tools=self.tools)

    def make_cuda(self, path: Path) -> None:
        """Make the CUDA layer."""
        with ExitStack() as open_wheels:
            tree = make_cuda(self.lock, self.store.blobs, open_wheels, compiler=self.own_compiler)
            make_erofs(tree, path, name="cuda", tools=self.tools)

    def make_agent(self, path: Path) -> None:
        """Make the agent layer."""
        compilers = [self.compiler, *([self.own_compiler] if self.lock.interpreter else [])]
        make_erofs(make_agent(compilers), path, name="agent", tools=self.tools)

    def make_vmlinuz(self, path: Path) -> None:
        """Take the guest kernel out of its package."""
        path.write_bytes(self.guest_kernel().vmlinuz)

    def make_initramfs(self, path: Path) -> None:
        """Make the initramfs."""
        path.write_bytes(make_initramfs(self.lock, self.store.blobs, self.guest_kernel()))


_MAKERS: Mapping[str, Callable[[Making, Path], None]] = {
    "system": Making.make_system,
    "modules": Making.make_modules,
    "apt": Making.make_apt,
    "cuda": Making.make_cuda,
    "python": Making.make_python,
    "agent": Making.make_agent,
    "vmlinuz": Making.make_vmlinuz,
    "initramfs": Making.make_initramfs,
}
