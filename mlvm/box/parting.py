"""A box as files that any web host takes, and as one file again.

Many hosts refuse files of 2 GiB and more. A box that is larger is cut; whoever adds it with mlvm gets the parts side by
side and joins them. Each part has its own digest, so that a wrong one is found before the others are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mlvm import files
from mlvm.box.catalog import MOST_PARTS, Part
from mlvm.errors import BoxError, DigestError

#: Bytes of a part at most: below 2 GiB, which GitHub's releases and FAT-minded hosts stop at.
PART_SIZE = 1900 << 20
_PIECE = 1 << 20


def cut(source: Path, folder: Path, path: str, *, size: int, sha256: str) -> tuple[Part, ...]:
    """Copy a box into the file `path` below `folder`, or several of at most `size` bytes; each is whole or absent.

    Raises DigestError when the box is not what `sha256` says: somebody has changed it meanwhile.
    """
    total = source.stat().st_size
    count = max(1, -(-total // size))
    if count > MOST_PARTS:
        raise BoxError(f"that would be {count} parts", hint=f"parts of more than {total // MOST_PARTS} bytes")
    paths = [path] if count == 1 else [f"{path}.{number:04d}" for number in range(count)]
    whole = hashlib.sha256()
    parts = []
    with source.open("rb") as stream:
        for one in paths:
            with files.writing(folder / one) as target:
                digest, length = _copy(stream, target, size, whole)
            parts.append(Part(path=one, size=length, sha256=digest))
    if whole.hexdigest() != sha256:
        for one in paths:
            (folder / one).unlink()
        raise DigestError(f"`{source}` was changed while it was copied", hint="again, when it is whole")
    return tuple(parts)


def join(parts: Sequence[Path], target: Path, *, sha256: str) -> None:
    """Make one file of parts. Raises DigestError when it is not what `sha256` says; then there is none."""
    whole = hashlib.sha256()
    with files.writing(target, mode=0o600, sync=False) as stream:
        for part in parts:
            with part.open("rb") as source:
                _copy(source, stream, part.stat().st_size, whole)
        if whole.hexdigest() != sha256:
            raise DigestError(
                "the parts of the box do not make the box",
                details=f"wanted sha256:{sha256}\nfound  sha256:{whole.hexdigest()}",
                hint="tell whoever published it",
            )


def _copy(source: IO[bytes], target: IO[bytes], size: int, whole: hashlib._Hash) -> tuple[str, int]:
    own = hashlib.sha256()
    done = 0
    while done < size and (piece := source.read(min(_PIECE, size - done))):
        own.update(piece)
        whole.update(piece)
        target.write(piece)
        done += len(piece)
    return own.hexdigest(), done
