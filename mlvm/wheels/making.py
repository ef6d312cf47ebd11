"""Build a wheel from a package's sources in a machine that is made for it and thrown away.

The machine is a box like any other: the lock's own Debian, Python and `apt` packages, and in its Python environment
what the build needs and nothing else. It has no network and no folder of the host; one machine a package, so that no
stranger's build meets another's. What it hands back is believed only by its digest.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

from packaging.pylock import Package
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from mlvm import files
from mlvm.download import fetch
from mlvm.errors import BuildError, MlvmError
from mlvm.events import SILENT, Observer, stage
from mlvm.image.accounts import USER
from mlvm.image.build import build as build_image
from mlvm.image.environment import VENV
from mlvm.image.sources import checked_blob
from mlvm.image.store import Store
from mlvm.image.tree import SOURCE_DATE
from mlvm.image.wheel import Wheel
from mlvm.lock.document import Build, Lock
from mlvm.lock.mirrors import wanted_for_build, wanted_sdist
from mlvm.lock.sdists import BuildSystem, Made, MissingError, build_id, build_system, builder_of
from mlvm.machine import create
from mlvm.machine.guest import Guest
from mlvm.machine.table import provider_for
from mlvm.paths import Home
from mlvm.spec.document import GIB, MachineShape, Spec
from mlvm.wheels import inside

#: The same for every build, so that nothing about a host decides what comes out (`make -j` counts CPUs).
SHAPE = MachineShape(cpus=2, memory=4 * GIB, disk=32 * GIB)
#: Seconds that a build may take: under emulation a compiler needs an hour for what takes minutes elsewhere.
PATIENCE = 4 * 3600
#: Bytes of a wheel that are taken back.
MOST_BYTES = 1 << 30
FOLDER = f"{USER.home}/build"
PROGRAM = Path(inside.__file__)
ENVIRONMENT = {
    "PATH": f"/{VENV}/bin:/usr/local/bin:/usr/bin:/bin",
    "VIRTUAL_ENV": f"/{VENV}",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "SOURCE_DATE_EPOCH": str(SOURCE_DATE),
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
#: What a failed build is likely to lack: words that it says, and what then goes into `apt`.
LACKING = (
    ("Python.h: No such file", "python3-dev"),
    ("error: command 'gcc' failed: No such file", "build-essential"),
    ("error: command 'x86_64-linux-gnu-gcc' failed: No such file", "build-essential"),
    ("Unknown compiler(s)", "build-essential"),
    ("command 'cc' failed: No such file", "build-essential"),
    ("stdio.h: No such file", "build-essential"),
    ("No such file or directory: 'cmake'", "cmake"),
    ("can't find Rust compiler", "cargo"),
)


def provide(lock: Lock, *, home: Home, observer: Observer = SILENT) -> None:
    """Have all wheels of a lock in the store that are built from sources, building what is not there.

    Raises BuildError when one comes out otherwise than the lock says.
    """
    maker = Making(home=home, observer=observer, again=True)
    sources = {str(package.name): package for package in lock.python.packages}
    for build in lock.builds:
        package = sources[build.name]
        recorded = (package.wheels or ())[0].hashes["sha256"]
        if Store(home).blobs.has(recorded):
            continue
        system = build_system(maker.fetch(package), name=build.name)
        maker.make(lock, package, build, system, recorded=recorded)


@dataclass(frozen=True, kw_only=True, slots=True)
class Making:
    """Builds wheels for one home (obeys `mlvm.lock.sdists.Maker`).

    For a new lock the backend is asked what it wants, and builds twice, to compare. `again` is for a lock that has all
    that: what comes out is held against it.
    """

    home: Home
    observer: Observer
    again: bool = False

    def fetch(self, package: Package) -> Path:
        """Bring the package's sdist here; return where it is. Raises DownloadError, DigestError."""
        store, wanted = Store(self.home), wanted_sdist(package)
        fetch([wanted], store.blobs, observer=self.observer)
        return checked_blob(wanted.name, wanted.sha256, store.blobs)

    def make(
        self, lock: Lock, package: Package, build: Build, system: BuildSystem, *, recorded: str | None = None
    ) -> Made:
        """Return the package's wheel, from the store where it has been built of the same things before.

        `recorded` is the digest it must have. Raises BuildError, MissingError.
        """
        store = Store(self.home)
        recipe = hashlib.sha256(PROGRAM.read_bytes() + json.dumps(ENVIRONMENT).encode()).hexdigest()
        key = build_id(lock, package, build, recipe=recipe)
        note = store.folder / "wheels" / f"{key}.json"
        with store.making(f"wheel-{key}", waiting=lambda: self._waiting(build)):
            found = _noted(note, store)
            if found is None or (recorded and found["sha256"] != recorded):
                found, content = self._built(lock, package, build, system)
                if recorded and found["sha256"] != recorded:
                    raise _other_bytes(package, found["sha256"], recorded)
                files.write_whole(store.blobs.path(found["sha256"]), content, mode=0o444)
                note.parent.mkdir(parents=True, exist_ok=True)
                files.write_whole(note, json.dumps(found) + "\n")
        metadata = _metadata(store.blobs.path(found["sha256"]), package)
        return Made(filename=found["wheel"], sha256=found["sha256"], size=found["size"], metadata=metadata)

    def _waiting(self, build: Build) -> None:
        self.observer.note(f"waiting: another mlvm is building `{build.name}`")

    def _built(
        self, lock: Lock, package: Package, build: Build, system: BuildSystem
    ) -> tuple[dict[str, Any], bytes]:
        """Build the wheel in a machine of its own; return what it is, and its bytes."""
        fetch(wanted_for_build(package, build), Store(self.home).blobs, observer=self.observer)
        sdist = self.fetch(package).read_bytes()
        with (
            self._machine(builder_of(lock, build)) as guest,
            stage(self.observer, "wheel", f"{package.name} {package.version}") as outcome,
        ):
            answer = self._ask(guest, package, system, sdist)
            if missing := answer.get("missing"):
                raise MissingError([str(text) for text in missing])
            _check(answer, package)
            content = guest.get(f"{FOLDER}/wheel")
            outcome.append(str(answer["wheel"]))
        if hashlib.sha256(content).hexdigest() != answer["sha256"] or len(content) != answer["size"]:
            raise BuildError(f"the wheel of `{package.name}` changed while it was handed over")
        return {name: answer[name] for name in ("wheel", "sha256", "size")}, content

    def _ask(self, guest: Guest, package: Package, system: BuildSystem, sdist: bytes) -> dict[str, Any]:
        """Have the sdist built in the guest; return the program's answer. Raises BuildError with its last words."""
        guest.run(["mkdir", "-p", FOLDER])
        guest.put(f"{FOLDER}/sdist", sdist, owner=USER.name)
        guest.put(f"{FOLDER}/inside.py", PROGRAM.read_bytes(), owner=USER.name)
        order = {
            "folder": FOLDER,
            "sdist": f"{FOLDER}/sdist",
            "requires": list(system.requires),
            "backend": system.backend,
            "backend_path": list(system.backend_path),
            "env": ENVIRONMENT,
            "date": SOURCE_DATE,
            "ask": not self.again,
            "times": 1 if self.again else 2,
        }
        command = [f"/{VENV}/bin/python", f"{FOLDER}/inside.py"]
        done = guest.run(
            command, stdin=json.dumps(order).encode(), env=ENVIRONMENT, cwd=FOLDER, timeout=PATIENCE
        )
        try:
            answer = json.loads(done.stdout)
            if done.code or not isinstance(answer, dict):
                raise ValueError(f"code {done.code}")
        except (ValueError, RecursionError):
            said = (done.stderr or done.stdout).decode(errors="replace")
            raise _failed(package, said[-4000:]) from None
        return answer

    @contextmanager
    def _machine(self, lock: Lock) -> Iterator[Guest]:
        """Yield the guest of a fresh machine of `lock`, which is gone after the block."""
        image = build_image(lock, home=self.home, observer=self.observer)
        name = f"{lock.name[:50]}-{secrets.token_hex(4)}"
        spec = Spec(name=name, machine=SHAPE, network="none", share=())
        record = create.ensure(self.home, name, image=image, spec=spec, project=self.home.store)
        provider = provider_for(record, warm=False)
        try:
            yield provider.start(record, image, observer=self.observer)
        finally:
            provider.destroy(record, observer=SILENT)


def _noted(note: Path, store: Store) -> dict[str, Any] | None:
    """Return what a note says of a wheel that was built, if the wheel is still here."""
    try:
        found = json.loads(note.read_text())
        whole = isinstance(found["wheel"], str) and isinstance(found["size"], int)
        return found if whole and store.blobs.has(found["sha256"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check(answer: dict[str, Any], package: Package) -> None:
    """Raise BuildError unless the answer is a wheel of the package."""
    what = f"`{package.name}` {package.version}"
    if said := answer.get("failed"):
        raise _failed(package, str(said))
    if differing := answer.get("differs"):
        raise BuildError(
            f"the wheel of {what} does not come out the same twice, and a lock would be of no use",
            details="\n".join(f"differs: {str(name)[:200]}" for name in list(differing)[:20]),
            hint="ask for another version of it, or for one that has a wheel",
        )
    name, size = answer.get("wheel"), answer.get("size")
    try:
        project, version, _, _ = parse_wheel_filename(str(name))
    except InvalidWheelFilename:
        raise BuildError(f"the build of {what} made no wheel, but {str(name)[:100]!a}") from None
    if project != canonicalize_name(str(package.name)) or version != package.version:
        raise BuildError(f"the build of {what} made a wheel of {project} {version}")
    if not isinstance(size, int) or not isinstance(answer.get("sha256"), str) or size > MOST_BYTES:
        raise BuildError(f"the wheel of {what} is larger than {MOST_BYTES >> 30} GiB")


def _failed(package: Package, said: str) -> BuildError:
    lacking = sorted({name for words, name in LACKING if words in said})
    asks = f"`apt: [{', '.join(lacking)}]`" if lacking else "its compilers and libraries go into `apt`"
    return BuildError(
        f"`{package.name}` {package.version} cannot be built from its sources",
        details=said,
        hint=f"{asks} in mlvm.yaml; it is built without network, with what its `build-system.requires` names",
    )


def _other_bytes(package: Package, found: str, recorded: str) -> BuildError:
    return BuildError(
        f"the wheel of `{package.name}` {package.version} is not what the lock records",
        details=f"built {found}, recorded {recorded}",
        hint="its build depends on the host (its CPU, say): have the wheel from where it was locked, or "
        f"`mlvm lock --upgrade {package.name}` here",
    )


def _metadata(path: Path, package: Package) -> dict[str, Any]:
    """Return what uv wants to know of a wheel, in uv's form. Raises BuildError for one that does not say it."""
    wheel = Wheel(path, name=f"{package.name} {package.version}")
    try:
        said = BytesHeaderParser().parsebytes(wheel.read("METADATA"))
    except MlvmError as broken:
        raise BuildError(broken.message) from None
    finally:
        wheel.close()
    found: dict[str, Any] = {
        "name": str(package.name),
        "version": str(package.version),
        "requires-dist": said.get_all("Requires-Dist", []),
        "provides-extra": said.get_all("Provides-Extra", []),
    }
    if python := said.get("Requires-Python"):
        found["requires-python"] = python
    return found
