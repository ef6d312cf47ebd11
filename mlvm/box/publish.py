"""Publish a box: a folder of plain files that any web host can give, with a catalog that Vagrant and mlvm read.

    CATALOG/ORG/NAME.json                          the catalog of one box (`mlvm.box.catalog`)
    CATALOG/ORG/NAME/VERSION/PROVIDER-ARCH.box     a version, or its parts: .box.0000, .box.0001 ...

Files first, the catalog last and in one step: whoever reads meanwhile, or is left with half of it after a kill, sees
the old catalog, which is right. What was published never changes: the same bytes again are nothing to do, other bytes
under a version that is there are refused.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

from mlvm import files
from mlvm.box import catalog as catalogs
from mlvm.box.catalog import NAME, VERSION, WORD, Catalog, Entry, checked, path_of, version_key
from mlvm.box.parting import PART_SIZE, cut
from mlvm.box.signatures import sign, statement
from mlvm.errors import BoxError, StoreError
from mlvm.events import SILENT, Observer, stage

HOLD = ".mlvm-hold"
_MOST_MEMBERS = 256
_LARGEST_TEXT = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """What is published: its catalog's document, its entry there, and whether that is new or was there already."""

    document: Path
    name: str
    entry: Entry
    new: bool


def publish(
    box: Path,
    *,
    catalog: Path,
    name: str,
    version: str,
    url: str | None = None,
    architecture: str = "amd64",
    lock: str = "",
    key: Path | None = None,
    part_size: int = PART_SIZE,
    observer: Observer = SILENT,
) -> Published:
    """Add the file `box` to the catalogs in the folder `catalog`, as a version of box `name`.

    `url` is where others find the folder (kept from the last time when not said; else the folder itself); `lock` the
    digest of the lock it was made from; `key` a key to sign with. Raises BoxError when the version is there with other
    bytes, StoreError when the folder cannot be written.
    """
    checked(name, NAME, "name of a box", "team/housing")
    checked(version, VERSION, "version", "1.0.0")
    provider = provider_of(box)
    document = catalog / path_of(name)
    with stage(observer, "pack", f"{name} {version} for {provider}") as outcome:
        wanted = Entry(
            version=version,
            provider=provider,
            architecture=checked(architecture, WORD, "architecture", "amd64"),
            sha256=files.sha256_of(box),
            size=box.stat().st_size,
            lock=lock,
        )
        try:
            with files.hold(
                catalog / HOLD, waiting=lambda: observer.note("waiting: somebody publishes here")
            ):
                before = read(document, name)
                entry = _added(before, wanted, box, catalog=catalog, key=key, part_size=part_size)
                base = (url or before.base or catalog.absolute().as_uri()).rstrip("/")
                after = before.with_entry(entry).at(base)
                if after != before:
                    files.write_whole(document, catalogs.dumps(after))
        except OSError as failed:
            raise StoreError(
                f"`{catalog}` cannot be written: {failed.strerror or failed}",
                hint="make room there, or publish elsewhere; the catalog is as it was",
            ) from failed
        outcome.append(f"{len(entry.parts)} file{'s' * (len(entry.parts) > 1)}")
    found = after.find(entry)
    assert found is not None
    return Published(document=document, name=name, entry=found, new=before.find(entry) is None)


def read(document: Path, name: str) -> Catalog:
    """Return the catalog of box `name`; an empty one when there is none yet. Raises BoxError."""
    try:
        content = document.read_bytes()
    except FileNotFoundError:
        return Catalog(name=name)
    found = catalogs.loads(content, str(document))
    if found.name != name:
        raise BoxError(f"`{document}` is the catalog of `{found.name}`, not of `{name}`")
    return found


def _added(
    before: Catalog, wanted: Entry, box: Path, *, catalog: Path, key: Path | None, part_size: int
) -> Entry:
    """Return the entry of a box, its files written; the one that is there when it is of the same bytes."""
    there = before.find(wanted)
    if there is not None and there.sha256 != wanted.sha256:
        raise BoxError(
            f"{wanted.version} of `{before.name}` for {wanted.provider} is published, and is another file",
            details=f"there: sha256:{there.sha256}\nhere:  sha256:{wanted.sha256}",
            hint=f"what is published stays: publish this as `--box-version {_next(before)}`",
        )
    # Another spelling of the same version (1.0, 1.0.0) is that version, and so is what was signed of it.
    entry = replace(there, size=wanted.size) if there else wanted
    folder = catalog / before.name.partition("/")[0]
    if not entry.parts or not all(_is_there(folder / part.path, part.size) for part in entry.parts):
        short = before.name.partition("/")[2]
        path = f"{short}/{entry.version}/{entry.provider}-{entry.architecture}.box"
        parts = cut(box, folder, path, size=part_size, sha256=entry.sha256)
        entry = replace(entry, parts=parts)
    if key is not None:
        if wanted.lock:
            entry = replace(entry, lock=wanted.lock)
        entry = replace(entry, signature=sign(statement(before.name, entry), key))
    return entry


def _is_there(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _next(catalog: Catalog) -> str:
    """Return a version that is newer than all there are."""
    newest = max((key for entry in catalog.entries if (key := version_key(entry.version))), default=(0,))
    numbers = [*newest, 0, 0][: max(3, len(newest))]
    numbers[-1] += 1
    return ".".join(map(str, numbers))


def provider_of(box: Path) -> str:
    """Return the provider that a box says it is for. Raises BoxError for a file that is no box."""
    try:
        with box.open("rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as tar:
            text = _metadata(tar)
        document = json.loads(text)
        return checked(document["provider"], WORD, "provider", "libvirt")
    except FileNotFoundError:
        raise BoxError(f"there is no box `{box}`", hint="mlvm box export") from None
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, RecursionError) as broken:
        raise BoxError(f"`{box}` is no box: {broken}", hint="mlvm box export makes one") from None
    except (KeyError, TypeError):
        raise BoxError(f"`{box}` is no box: its metadata.json names no provider") from None


def _metadata(tar: tarfile.TarFile) -> bytes:
    for count, member in enumerate(tar):
        if count >= _MOST_MEMBERS:
            break
        content = tar.extractfile(member) if member.name.removeprefix("./") == "metadata.json" else None
        if content is not None and member.size <= _LARGEST_TEXT:
            return content.read()
    raise ValueError("it has no metadata.json")
