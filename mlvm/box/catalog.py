"""A catalog: all versions of one box in one document, Vagrant's JSON and what mlvm adds to it.

Vagrant reads name, versions, providers, urls and digests, and skips what stands under `mlvm`: sizes, the parts of a box
that is larger than web hosts take, signatures. A box in parts is nothing that Vagrant could fetch, so it does not stand
among Vagrant's providers at all: an error of Vagrant's that says so is better than a digest that cannot fit. Paths are
relative to the document, so a catalog can be moved; only Vagrant's own urls are absolute, as it wants them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlvm.errors import BoxError

FORMAT = 1
#: Bytes of a document; a thousand versions take less.
LARGEST = 4 << 20
MOST_PARTS = 4096
_LARGEST_BOX = 16 << 40
_LONGEST_SIGNATURE = 16 << 10

NAME = re.compile(r"(?!.*\.json$)[A-Za-z0-9][A-Za-z0-9._-]{0,79}/[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
#: What mlvm publishes; catalogs of others may have more, which is never taken for the newest.
VERSION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,3}")
_ANY_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,63}")
WORD = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"(?!\.)[A-Za-z0-9._-]+(?:/(?!\.)[A-Za-z0-9._-]+)*")
_URL = re.compile(r"[!-~]{1,2000}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A file that a box consists of, alone or with others; `path` is relative to the document."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One version for one provider; `url` is for those who fetch it whole, and empty for a box in parts.

    Catalogs that mlvm did not write have no `parts` and no `size`. `lock` is the digest of the lock that the box was
    made from, if any.
    """

    version: str
    provider: str
    architecture: str
    sha256: str
    url: str = ""
    size: int | None = None
    parts: tuple[Part, ...] = ()
    lock: str = ""
    signature: str = ""

    @property
    def key(self) -> tuple[object, str, str]:
        """What there can be only one of."""
        return version_key(self.version) or self.version, self.provider, self.architecture


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """A whole document. `base` is the address of the folder of all catalogs, without a slash at its end."""

    name: str
    base: str = ""
    entries: tuple[Entry, ...] = ()

    def find(self, wanted: Entry) -> Entry | None:
        """Return the entry with the key of another."""
        return next((entry for entry in self.entries if entry.key == wanted.key), None)

    def with_entry(self, added: Entry) -> Catalog:
        """Return the catalog with an entry more, or another in its place."""
        others = [entry for entry in self.entries if entry.key != added.key]
        return replace(self, entries=tuple(sorted((*others, added), key=_order)))

    def at(self, base: str) -> Catalog:
        """Return the catalog as it is at another address; boxes that lie elsewhere stay there."""
        folder = f"{base}/{self.name.partition('/')[0]}"

        def url_of(entry: Entry) -> str:
            return f"{folder}/{entry.parts[0].path}" if len(entry.parts) == 1 else ""

        moved = (replace(entry, url=url_of(entry)) if entry.parts else entry for entry in self.entries)
        return replace(self, base=base, entries=tuple(moved))


def version_key(version: str) -> tuple[int, ...] | None:
    """Return a version in numbers for comparing, or None for one that is not only numbers; 1.0 is 1.0.0."""
    if not VERSION.fullmatch(version):
        return None
    numbers = [int(number) for number in version.split(".")]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def path_of(name: str) -> str:
    """Return where the document of a box is, relative to the folder of all catalogs."""
    return f"{name}.json"


def checked(value: str, form: re.Pattern[str], what: str, example: str) -> str:
    """Return a value that somebody typed. Raises BoxError with an example."""
    if not form.fullmatch(value):
        raise BoxError(f"`{value}` is no {what}", hint=f"for example `{example}`")
    return value


def dumps(catalog: Catalog) -> str:
    """Return the document's text; the same catalog always gives the same text."""
    versions: dict[str, list[Entry]] = {}
    for entry in sorted(catalog.entries, key=_order):
        versions.setdefault(entry.version, []).append(entry)
    document: dict[str, Any] = {
        "name": catalog.name,
        "mlvm": {"format": FORMAT, "base": catalog.base},
        "versions": [_version(version, entries) for version, entries in versions.items()],
    }
    return json.dumps(document, indent=1) + "\n"


def loads(content: bytes, where: str) -> Catalog:
    """Read a document; `where` is for messages. Raises BoxError that names what is wrong."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise BoxError(
            f"`{where}` is no catalog: it is not JSON",
            hint="a .box by itself can be added as a file: get it, and `mlvm box add FILE`",
        ) from None
    try:
        return _read(document)
    except (_WrongError, KeyError, TypeError, AttributeError) as wrong:
        said = str(wrong) if isinstance(wrong, _WrongError) else "it is not made as one"
        raise BoxError(f"`{where}` is no catalog", details=said) from None


class _WrongError(Exception):
    """Something in a document is not as it must be."""


def _order(entry: Entry) -> tuple[object, ...]:
    """Versions upwards; of one provider's, what most people have last: an old Vagrant takes that one."""
    numbers = version_key(entry.version)
    return (
        numbers is not None,
        numbers or (),
        entry.version,
        entry.provider,
        entry.architecture == "amd64",
        entry.architecture,
    )


def _version(version: str, entries: Iterable[Entry]) -> dict[str, Any]:
    entries = list(entries)
    usual = {entry.provider: entry.architecture for entry in entries}
    written = [
        (entry, _entry(entry, default=usual[entry.provider] == entry.architecture)) for entry in entries
    ]
    document: dict[str, Any] = {
        "version": version,
        "providers": [one for entry, one in written if len(entry.parts) < 2],
    }
    if split := [one for entry, one in written if len(entry.parts) > 1]:
        document["mlvm"] = {"split": split}
    return document


def _entry(entry: Entry, *, default: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"name": entry.provider}
    if entry.url:
        document["url"] = entry.url
    document |= {
        "checksum_type": "sha256",
        "checksum": entry.sha256,
        "architecture": entry.architecture,
        "default_architecture": default,
    }
    ours: dict[str, Any] = {
        "size": entry.size,
        "parts": [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in entry.parts],
        "lock": entry.lock,
        "signature": entry.signature,
    }
    return document | {"mlvm": {key: value for key, value in ours.items() if value}}


def _read(document: Mapping[str, Any]) -> Catalog:
    ours = document.get("mlvm") or {}
    if ours and ours.get("format") != FORMAT:
        raise _WrongError(f"mlvm.format: this mlvm reads {FORMAT}, found {_shown(ours.get('format'))}")
    entries: list[Entry] = []
    for number, one in enumerate(document["versions"]):
        path = f"versions[{number}]"
        version = _text(one, "version", _ANY_VERSION, path)
        for place, more in (("providers", one), ("mlvm.split", one.get("mlvm") or {})):
            for index, provider in enumerate(more.get(place.rpartition(".")[2]) or []):
                entry = _read_entry(provider, version, f"{path}.{place}[{index}]")
                if entry is not None:
                    entries.append(entry)
    keys = [entry.key for entry in entries]
    if twice := next((entry for entry in entries if keys.count(entry.key) > 1), None):
        raise _WrongError(f"versions: {twice.version} for {twice.provider} is there twice")
    base = _text(ours, "base", _URL, "mlvm") if ours.get("base") else ""
    return Catalog(name=_text(document, "name", NAME, ""), base=base, entries=tuple(entries))


def _read_entry(table: Mapping[str, Any], version: str, path: str) -> Entry | None:
    """Return an entry; None for one without a SHA-256, which nothing can be checked by."""
    if str(table.get("checksum_type", "")).lower() != "sha256":
        return None
    ours = table.get("mlvm") or {}
    parts = tuple(
        _read_part(one, f"{path}.mlvm.parts[{number}]") for number, one in enumerate(ours.get("parts") or [])
    )
    size = _size(ours, path + ".mlvm") if "size" in ours else None
    if len(parts) > MOST_PARTS or (parts and size != sum(part.size for part in parts)):
        raise _WrongError(f"{path}.mlvm.parts: they do not come to the box's size")
    sha256 = _text({**table, "checksum": str(table["checksum"]).lower()}, "checksum", _SHA256, path)
    if len(parts) == 1 and parts[0].sha256 != sha256:
        raise _WrongError(f"{path}.mlvm.parts: the only one has another digest than the whole")
    signature = ours.get("signature", "")
    if not isinstance(signature, str) or len(signature) > _LONGEST_SIGNATURE:
        raise _WrongError(f"{path}.mlvm.signature: a text of reasonable length is wanted")
    return Entry(
        version=version,
        provider=_text(table, "name", WORD, path),
        architecture=_text({"architecture": "amd64", **table}, "architecture", WORD, path),
        sha256=sha256,
        url=_text(table, "url", _URL, path) if table.get("url") or not parts else "",
        size=size,
        parts=parts,
        lock=_text(ours, "lock", _SHA256, path) if ours.get("lock") else "",
        signature=signature,
    )


def _read_part(table: Mapping[str, Any], path: str) -> Part:
    return Part(
        path=_text(table, "path", _PATH, path),
        size=_size(table, path),
        sha256=_text(table, "sha256", _SHA256, path),
    )


def _text(table: Mapping[str, Any], key: str, form: re.Pattern[str], path: str) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _WrongError(f"{path}{'.' * bool(path)}{key}: found {_shown(value)}")
    return value


def _size(table: Mapping[str, Any], path: str) -> int:
    value = table.get("size")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST_BOX:
        raise _WrongError(f"{path}.size: found {_shown(value)}")
    return value


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:80]
