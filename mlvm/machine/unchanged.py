"""What is known of a project whose files have not changed: the machine that they mean, without reading them again.

Reading a spec and a lock takes a few milliseconds, importing what reads them a tenth of a second: as long as all else
that a start from standby does on the host. So whoever has read them notes the outcome beside a digest of what it
depends on: both files' bytes, and mlvm's own code. Anything else than that very digest means that nothing is known.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mlvm import files
from mlvm.machine import record as records
from mlvm.machine.record import Record
from mlvm.paths import LOCK_NAME, SPEC_NAME, Home
from mlvm.spec.document import SharedFolder

#: What leads a spec to other files, which are not looked at here.
LEADS_ON = (b"template", b"requirements", b"editable")


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What a project's files mean: the record of a machine as it would be made now, and the spec's `share`."""

    record: Record
    share: tuple[SharedFolder, ...] | None


def recall(project: Path, name: str | None, *, home: Home) -> Known | None:
    """Return what is known for machine `name` (or the spec's), or None for nothing."""
    path = _path(project, home)
    try:
        noted = json.loads(path.read_text())
        if noted["stamp"] != _stamp(project):
            return None
        record = records.of_document(noted["record"], home)
        share = noted["share"]
        folders = None if share is None else tuple(SharedFolder(**one) for one in share)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    record = replace(
        record,
        name=records.check_name(name or record.name),
        mac=records.new_mac(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Known(record=record, share=folders)


def note(project: Path, record: Record, share: tuple[SharedFolder, ...] | None) -> None:
    """Note that the files of a project mean `record`, under the spec's own name, and `share`."""
    stamp = _stamp(project)
    if stamp is not None:
        folders = None if share is None else [asdict(one) for one in share]
        document = {"stamp": stamp, "record": records.document(record), "share": folders}
        files.write_whole(_path(project, record.home), json.dumps(document) + "\n", mode=0o600)


def _path(project: Path, home: Home) -> Path:
    key = hashlib.sha256(os.fsencode(project.absolute())).hexdigest()[:32]
    return home.cache / "unchanged" / f"{key}.json"


def _stamp(project: Path) -> str | None:
    """Return the digest of all that a project's machine depends on; None where that is not all in sight."""
    try:
        spec, lock = (project / SPEC_NAME).read_bytes(), (project / LOCK_NAME).read_bytes()
    except OSError:
        return None
    if any(word in spec for word in LEADS_ON):
        return None
    whole = hashlib.sha256()
    for part in (spec, lock, *_own_code()):
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()


def _own_code() -> Iterator[bytes]:
    """Yield what changes with every change of mlvm: the names, sizes and times of its files."""
    package = Path(__file__).parents[1]
    for folder, folders, names in os.walk(package):
        folders[:] = sorted(name for name in folders if name not in {"__pycache__", "shipped"})
        for name in sorted(names):
            status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118  (a hundred of them, at every start)
            yield f"{folder}/{name} {status.st_size} {status.st_mtime_ns}".encode()
