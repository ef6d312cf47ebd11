"""A lock that rides in a notebook's metadata, with the spec it was made from.

The document is text for people (the spec) and packed text (the lock, gzip in base64: 24 kB where the lock has 66 kB;
xz saves 3 kB more and is harder to open elsewhere). What comes back is read as strictly as if it came from files, and
held against its digest: whoever wrote the notebook decides what is in the machine, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import io
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlvm.errors import LockError, SpecError
from mlvm.files import folder_whole, write_whole
from mlvm.lock.diff import describe
from mlvm.lock.document import Lock
from mlvm.lock.fresh import stale_reasons
from mlvm.lock.text import dumps, loads
from mlvm.paths import LOCK_NAME, SPEC_NAME, Home
from mlvm.spec import nodes, reader
from mlvm.spec.complaints import Place, Report
from mlvm.spec.document import Spec
from mlvm.spec.emit import standing_alone
from mlvm.spec.ipynb import KEY, Notebook
from mlvm.spec.nodes import Keyed

VERSION = 1
#: Locks have some hundred kB; a small text that unpacks to gigabytes is an attack.
MOST_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Carried:
    """What a notebook brings: the texts of a spec and of its lock, both read and found right."""

    spec_text: str
    lock_text: str
    lock: Lock

    @property
    def digest(self) -> str:
        """The digest of the lock's text."""
        return hashlib.sha256(self.lock_text.encode()).hexdigest()


def pack(spec: Spec, lock: Lock) -> dict[str, Any]:
    """Return the metadata that carries a lock. Raises LockError for one that needs code of its project."""
    if spec.editable:
        raise LockError(
            "a notebook cannot carry code of the project: "
            + ", ".join(f"`{one.name}`" for one in spec.editable),
            hint="take it out of `editable`, or give the project along with the notebook",
        )
    text = dumps(lock).encode()
    return {
        "version": VERSION,
        "name": lock.name,
        "spec": standing_alone(spec).splitlines(keepends=True),
        "lock": base64.b64encode(gzip.compress(text, 9, mtime=0)).decode(),
        "lock_sha256": hashlib.sha256(text).hexdigest(),
    }


def find(notebook: Notebook) -> Carried | None:
    """Return what a notebook brings; None when it brings nothing. Raises LockError for what cannot be trusted."""
    found = notebook.metadata.get(KEY)
    if not isinstance(found, Mapping) or "lock" not in found:
        return None
    where = f"the lock in notebook `{notebook.path.name}`"
    if found.get("version") != VERSION:
        raise LockError(
            f"{where} has version {str(found.get('version'))[:20]}; this mlvm reads {VERSION}",
            hint="upgrade mlvm",
        )
    try:
        return _unpack(found)
    except (binascii.Error, zlib.error, OSError, EOFError, ValueError, TypeError) as broken:
        raise _damaged(where, str(broken)) from None
    except (SpecError, LockError) as broken:
        raise _damaged(where, "\n".join(filter(None, (broken.message, broken.details)))) from None


def differences(carried: Carried, lock: Lock) -> list[str]:
    """Say what the notebook's lock has otherwise than `lock`, a line each; empty when they mean the same."""
    lines = describe(carried.lock, lock)
    return lines if carried.lock.name == lock.name else [f"name: {carried.lock.name} -> {lock.name}", *lines]


def unpack(carried: Carried, home: Home) -> Path:
    """Write spec and lock into a folder of their own, named by their content, and return it.

    Raises LockError when the two do not fit each other, or not this mlvm.
    """
    if reasons := stale_reasons(reader.loads(carried.spec_text), carried.lock):
        raise LockError(
            f"the lock of `{carried.lock.name}` in the notebook does not fit the spec beside it",
            details="\n".join(reasons),
            hint="where its project is: `mlvm lock --into NOTEBOOK`",
        )
    spec_digest = hashlib.sha256(carried.spec_text.encode()).hexdigest()
    folder = home.carried / f"{carried.lock.name}-{carried.digest[:12]}-{spec_digest[:6]}"
    if not folder.is_dir():
        with folder_whole(folder) as making:
            write_whole(making / SPEC_NAME, carried.spec_text)
            write_whole(making / LOCK_NAME, carried.lock_text)
    return folder


def _unpack(found: Mapping[str, Any]) -> Carried:
    with gzip.GzipFile(fileobj=io.BytesIO(base64.b64decode(found["lock"], validate=True))) as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it unpacks to more than {MOST_BYTES >> 20} MiB")
    if hashlib.sha256(content).hexdigest() != found.get("lock_sha256"):
        raise ValueError("its digest is not the one that stands beside it")
    text = content.decode()
    lines = found.get("spec")
    spec_text = "".join(map(str, lines)) if isinstance(lines, list) else str(lines)
    _refuse_the_host(spec_text)
    reader.loads(spec_text)
    return Carried(spec_text=spec_text, lock_text=text, lock=loads(text))


def _refuse_the_host(spec_text: str) -> None:
    """Whoever wrote a notebook has no say in which files of its reader's host are read or shared."""
    report = Report()
    node = nodes.parse(spec_text, SPEC_NAME, at=Place(report=report))
    for key in ("requirements", "template", "share", "ports", "machines"):
        if isinstance(node, Keyed) and node.find(key) is not None:
            raise ValueError(f"its spec has `{key}`, which is a matter of the host")


def _damaged(where: str, why: str) -> LockError:
    return LockError(f"{where} is damaged", details=why, hint="put it in again: `mlvm lock --into NOTEBOOK`")
