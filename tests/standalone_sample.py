"""A mirror of standalone Pythons: the real table's where that can be reached, else one packed from this host's pyenv.

A pyenv's Python has the layout of a standalone one (bin, include, lib, share below one prefix, which it finds by its
own place), so it is packed as `python/...`; only where its program looks for libpython must become relative.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from pathlib import Path

from mlvm.lock import interpreters
from mlvm.paths import Home

DATE = "2099-01-01"
_UNUSED = re.compile(
    r"lib/python3\.\d+/(test|site-packages|idlelib|ensurepip|config-[^/]*|lib2to3/tests)(/|$)|.*__pycache__"
)


def find_pyenv(python: str) -> Path | None:
    """Return the folder of this host's pyenv with a Python "3.12", or None."""
    root = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    return next(
        (path for path in sorted(root.glob(f"{python}.*")) if (path / f"bin/python{python}").is_file()), None
    )


def packed(prefix: Path) -> bytes:
    """Return an archive in the layout of `install_only` of the Python in `prefix`; the same for the same files."""
    stream = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, compresslevel=1) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        for path in sorted(prefix.rglob("*")):
            name = path.relative_to(prefix).as_posix()
            if _UNUSED.match(name) or name.startswith("share") or (path.is_dir() and not path.is_symlink()):
                continue
            if name.startswith("bin/") and not re.fullmatch(r"bin/python[0-9.]*", name):
                continue
            info = archive.gettarinfo(path, f"python/{name}")
            info.uid = info.gid = info.mtime = 0
            info.uname = info.gname = ""
            if not info.isreg():
                archive.addfile(info)
                continue
            content = path.read_bytes()
            if name.startswith("bin/"):
                content = _relative(content, prefix)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _relative(program: bytes, prefix: Path) -> bytes:
    """Let a program find its libraries beside itself and not at `prefix`: the shorter path leaves zeros behind."""
    old, new = f"{prefix}/lib".encode(), b"$ORIGIN/../lib"
    return program.replace(old + b"\0", new.ljust(len(old), b"\0") + b"\0")


def mirror(folder: Path, version: str, archive: bytes) -> str:
    """Put an archive on a mirror in `folder`; return the mirror's URL."""
    place = folder / "20990101" / f"cpython-{version}-install_only.tar.gz"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(archive)
    return folder.as_uri()


def add_table(home: Home, python: str, version: str, archive: bytes) -> None:
    """Give `home` a table of Pythons that names the archive."""
    row = {
        "version": version,
        "path": f"20990101/cpython-{version}-install_only.tar.gz",
        "sha256": hashlib.sha256(archive).hexdigest(),
    }
    table = {"date": DATE, "source": "a test", "pythons": {python: row}}
    home.data.mkdir(parents=True, exist_ok=True)
    (home.data / interpreters.NAME).write_text(json.dumps(table))
