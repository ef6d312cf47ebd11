"""The conventional way to the same image: mmdebstrap, a Python environment, `mke2fs -d`.

The same .debs and wheels, offline. What it is given for nothing: the repository's index and uv's unpacked wheels are
made beforehand, files are linked and not copied where that can be done, and nothing is digested.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlvm import process
from mlvm.download import Blobs
from mlvm.errors import ProgramError
from mlvm.lock.document import DebianPackage, Lock

PROGRAMS = ("mmdebstrap", "mke2fs", "dpkg-deb", "chroot", "unshare")
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr"
VENV = "opt/mlvm/venv"
#: Room for what a person adds, as an image of fixed size must have.
SPARE = 512 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Conventional:
    """Everything that is needed to make the image of `lock`, in `folder`."""

    lock: Lock
    folder: Path
    uv: Path

    @property
    def installed(self) -> Path:
        """A tree that has the environment already."""
        return self.folder / "installed"

    def build(self) -> dict[str, float]:
        """Make the image anew and return the seconds of each stage."""
        work = self.folder / "work"
        seconds: dict[str, float] = {}
        try:
            with _clock("mmdebstrap", seconds):
                self._debian(work / "tree")
            with _clock("venv", seconds):
                self._python(work / "tree")
            with _clock("mke2fs", seconds):
                _file_system(work / "tree", work / "image")
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return seconds

    def _debian(self, tree: Path) -> None:
        wanted = ",".join(f"{package.name}={package.version}" for package in self.lock.system)
        tree.parent.mkdir()
        process.run(
            [
                "unshare", "-n", "mmdebstrap", "--quiet", "--mode=root", "--variant=custom", "--format=directory",
                f"--hook-dir={MERGED_USR}", f"--include={wanted}", "", tree,
                f"deb [trusted=yes] copy:{self.folder / 'debs'} ./",
            ],
            timeout=1800,
        )  # fmt: skip
        for package in self.lock.boot:
            # `dpkg-deb --extract` would put a folder in the place of the link /lib.
            archive = process.run(
                ["dpkg-deb", "--fsys-tarfile", self.folder / "debs" / Path(package.filename).name]
            )
            process.run(["tar", "-C", tree, "--keep-directory-symlink", "-x"], stdin=archive.stdout)

    def _python(self, tree: Path) -> None:
        """Install the wheels, and compile them as an installer in the guest would."""
        python = str(self.lock.inputs["python"])
        process.run(["chroot", tree, f"python{python}", "-m", "venv", "--without-pip", f"/{VENV}"])
        self.install(tree)
        site = f"/{VENV}/lib/python{python}/site-packages"
        # A module that no Python 3 can read ends this with code 1, here as with every installer.
        process.run(["chroot", tree, f"python{python}", "-m", "compileall", "-q", "-j0", site], check=False)

    def install(self, tree: Path) -> None:
        """Let uv bring the environment in `tree` to what the lock names."""
        python = str(self.lock.inputs["python"])
        process.run(
            [
                self.uv, "pip", "install", "--quiet", "--offline", "--no-index", "--no-deps", "--no-config",
                "--find-links", self.folder / "wheels", "--cache-dir", self.folder / "uv",
                "--python-version", python, "--target", tree / VENV / f"lib/python{python}/site-packages",
                "--requirements", self.folder / "requirements.txt",
            ],
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )  # fmt: skip


def prepare(lock: Lock, blobs: Blobs, folder: Path, *, uv: Path) -> Conventional:
    """Make the repository and the folder of wheels. Raises ProgramError where a program, or root, is missing."""
    for program in PROGRAMS:
        process.require_program(program)
    if os.getuid() != 0:
        raise ProgramError(
            "the conventional build, which is the baseline, needs root", hint="sudo make bench"
        )
    (folder / "debs").mkdir(parents=True)
    (folder / "wheels").mkdir()
    index = [_stanza(package, blobs, folder / "debs") for package in lock.debs()]
    (folder / "debs" / "Packages").write_text("\n".join(index))
    names = []
    for package in lock.python.packages:
        for wheel in package.wheels or ():
            shutil.copyfile(blobs.path(wheel.hashes["sha256"]), folder / "wheels" / wheel.filename)
            names.append(f"{package.name}=={package.version}\n")
    (folder / "requirements.txt").write_text("".join(names))
    made = Conventional(lock=lock, folder=folder, uv=uv)
    made.install(made.installed)  # fills uv's cache, too
    return made


def _stanza(package: DebianPackage, blobs: Blobs, folder: Path) -> str:
    """Put a .deb into the repository; return its paragraph of the index."""
    name = Path(package.filename).name
    shutil.copyfile(blobs.path(package.sha256), folder / name)
    fields = process.run(["dpkg-deb", "--field", folder / name]).stdout.decode()
    return f"{fields.rstrip()}\nFilename: ./{name}\nSize: {package.size}\nSHA256: {package.sha256}\n"


def _file_system(tree: Path, image: Path) -> None:
    used = int(process.run(["du", "-s", "-B1", tree]).stdout.split()[0])
    blocks = (used * 11 // 10 + SPARE) >> 12
    process.run(["mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", tree, image, str(blocks)], timeout=1800)


@contextmanager
def _clock(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    began = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - began
