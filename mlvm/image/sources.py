"""Packages out of the store, their bytes checked once more before anything is made of them.

Downloads were verified when they arrived. Disks forget, and a store may be shared: reading a package costs more than
its digest, so the digest is taken each time.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlvm.download import Blobs
from mlvm.errors import DigestError
from mlvm.lock import deb
from mlvm.lock.deb import Deb
from mlvm.lock.document import DebianPackage


def read_deb(package: DebianPackage, blobs: Blobs) -> Deb:
    """Return `package` unpacked in memory. Raises DigestError, or BuildError when it is no package."""
    path = blobs.path(package.sha256)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise _lost(package.name) from None
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise _changed(package.name, path)
    return deb.read(path, data=content)


def checked_blob(name: str, sha256: str, blobs: Blobs) -> Path:
    """Return the path of a blob after taking its digest. Raises DigestError."""
    path = blobs.path(sha256)
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise _lost(name) from None
    if found != sha256:
        raise _changed(name, path)
    return path


def _lost(name: str) -> DigestError:
    return DigestError(f"`{name}` is not in the store any more", hint="mlvm build, which downloads it again")


def _changed(name: str, path: Path) -> DigestError:
    return DigestError(
        f"`{name}` in the store is not what was downloaded: its bytes have changed",
        details=str(path),
        hint=f"rm -f {path} && mlvm build",
    )
