"""Every place on the host that mlvm reads or writes, named once.

Four roots, by the XDG rules: data (machines: precious), cache (the store: can be made again), runtime (sockets:
gone after a reboot) and Jupyter's own folders (kernelspecs). `MLVM_HOME` moves the first three under one folder,
which is how tests and a second clone keep out of each other's way.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mlvm.errors import MlvmError

SPEC_NAME = "mlvm.yaml"
LOCK_NAME = "mlvm.lock"

#: Linux allows 108 bytes with the closing zero for a unix socket's path; macOS 104. The lower one is kept.
SOCKET_PATH_LIMIT = 103


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """The roots in use. `Home.find()` reads the environment once; everything else is handed on."""

    data: Path
    cache: Path
    runtime: Path

    @classmethod
    def find(cls) -> Home:
        """Return the roots for this user from `MLVM_HOME`, else the XDG variables, else their defaults."""
        if home := os.environ.get("MLVM_HOME"):
            root = Path(home).expanduser().absolute()
            return cls(data=root / "data", cache=root / "cache", runtime=_short_runtime(root))
        data = _absolute("XDG_DATA_HOME", "~/.local/share") / "mlvm"
        cache = _absolute("XDG_CACHE_HOME", "~/.cache") / "mlvm"
        return cls(data=data, cache=cache, runtime=_runtime() or _short_runtime(data))

    @property
    def store(self) -> Path:
        """Content-addressed downloads, layers and images (see `mlvm.image.store`)."""
        return self.cache / "store"

    @property
    def machines(self) -> Path:
        """One folder a machine."""
        return self.data / "machines"

    @property
    def forks(self) -> Path:
        """What forked machines share: the disk, and while they run the RAM, of the machine they came from."""
        return self.data / "forks"

    @property
    def carried(self) -> Path:
        """One folder a project that came in a notebook: its spec and its lock."""
        return self.data / "carried"

    def machine(self, name: str) -> Path:
        """The folder of machine `name`: its record, overlay disk, keys and logs."""
        return self.machines / name

    def sockets(self, name: str) -> Path:
        """The 0700 folder that holds the sockets of machine `name`; short, for `SOCKET_PATH_LIMIT`."""
        return self.runtime / hashlib.sha256(name.encode()).hexdigest()[:12]


def _absolute(variable: str, default: str) -> Path:
    """Return a folder from an XDG variable; relative ones are to be ignored, says the XDG specification."""
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path(default).expanduser()


def _runtime() -> Path | None:
    """Return the user's own runtime folder, if the system made one.

    cron, `su` and some ssh sessions lack the variable: where logind keeps the folder is looked at as well, so that
    all processes of a user find the same sockets. A folder that `sudo -E` left behind from another user is not ours.
    """
    for folder in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{os.getuid()}"):
        with suppress(OSError):
            if folder.startswith("/") and Path(folder).stat().st_uid == os.getuid():
                return Path(folder) / "mlvm"
    return None


def _short_runtime(root: Path) -> Path:
    """A short folder for sockets where the system names none; told apart by user and by root."""
    return Path(f"/tmp/mlvm-{os.getuid()}-{hashlib.sha256(str(root).encode()).hexdigest()[:8]}")  # noqa: S108


def make_private(folder: Path) -> Path:
    """Make `folder` with mode 0700 and return it; refuse one that belongs to somebody else or is a link.

    The folder it lies in must not be somebody else's either: they could put another in its place.
    """
    if not folder.parent.exists():
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
    _refuse_foreign(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise MlvmError(
                f"`{folder}` must be a folder of your own, and is not",
                hint=f"look at it with `ls -ld {folder}`, then move it away",
            ) from None
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    return folder


def _refuse_foreign(parent: Path) -> None:
    """Refuse a folder in which somebody else could rename ours: theirs, or open to all without the sticky bit."""
    found = parent.stat()
    owners = {found.st_uid, parent.lstat().st_uid}
    open_to_all = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    if not owners <= {0, os.getuid()} or open_to_all:
        raise MlvmError(
            f"`{parent}` is in the hands of other users",
            hint=f"look at it with `ls -ld {parent}`, or set MLVM_HOME to a folder of your own",
        )


def socket_path(folder: Path, name: str) -> Path:
    """Return the path of socket `name` in `folder`, or raise while the path can still be explained."""
    path = folder / name
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT:
        raise MlvmError(
            f"the path of socket `{path}` is longer than {SOCKET_PATH_LIMIT} bytes",
            hint="set MLVM_HOME or XDG_RUNTIME_DIR to a shorter folder",
        )
    return path


def shipped(kind: str) -> Path:
    """The folder of shipped `boxes` or `templates`: the clone's own, else the copy inside the wheel.

    The clone's comes first because a wheel's copy also lands in editable installs, where it would go stale.
    """
    package = Path(__file__).parent
    clone = package.parent / kind
    if clone.is_dir() and (package.parent / "pyproject.toml").is_file():
        return clone
    return package / "shipped" / kind
