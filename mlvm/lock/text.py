"""A lock as text: TOML, read strictly, written so that it diffs well.

One block a package, sorted; no line that depends on when or where it was written except the archive's timestamp. The
reader gathers every complaint with its path in the document, since a half-merged lock usually has several.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import tomli_w
from packaging.pylock import Pylock, PylockValidationError

from mlvm.errors import LockError
from mlvm.lock.document import LOCK_VERSION, Archive, DebianPackage, ImageRecord, Lock

HEADER = """\
# What this box is made of, exactly. Written by `mlvm lock`; commit it, and do not edit it.
# `mlvm lock --upgrade NAME` moves a package, `mlvm lock --check` compares with mlvm.yaml, `mlvm diff` reads two.

"""

LISTS = ("system", "boot", "tools")
KEYS = {
    "lock-version",
    "name",
    "inputs",
    "architecture",
    "guest-kernel",
    "archives",
    "python",
    "image",
    *LISTS,
}
SHA256 = re.compile(r"[0-9a-f]{64}")
#: A pool path stays below its archive: no way up, no absolute path, nothing a URL would read otherwise.
POOL_PATH = re.compile(r"pool/(?:[A-Za-z0-9+._~%-]+/)*[A-Za-z0-9+._~%-]+\.deb")
PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def dumps(lock: Lock) -> str:
    """Return the lock's text; the same lock always gives the same text."""
    document: dict[str, Any] = {
        "lock-version": LOCK_VERSION,
        "name": lock.name,
        "architecture": lock.architecture,
        "guest-kernel": lock.guest_kernel,
        "inputs": dict(lock.inputs),
    }
    if lock.image is not None:
        document["image"] = {"builder": lock.image.builder, "digests": dict(lock.image.digests)}
    document["archives"] = [
        {**asdict(archive), "components": list(archive.components)} for archive in lock.archives
    ]
    document["python"] = lock.python.to_dict()
    for name in LISTS:
        document[name] = [asdict(package) for package in getattr(lock, name)]
    return HEADER + tomli_w.dumps(document)


def load(path: Path) -> Lock:
    """Read a lock file. Raises LockError with every complaint."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LockError(f"there is no `{path}`", hint="mlvm lock") from None
    except (OSError, UnicodeDecodeError) as broken:
        raise LockError(f"`{path}` cannot be read: {broken}") from None
    return loads(text, path=path)


def loads(text: str, *, path: Path | None = None) -> Lock:
    """Read a lock from its text; `path` is only for messages. Raises LockError with every complaint."""
    where = f"`{path or 'mlvm.lock'}`"
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as broken:
        hint = "a merge conflict? take either side, then `mlvm lock`" if "<<<<<<<" in text else "mlvm lock"
        raise LockError(f"{where} is not TOML: {broken}", hint=hint) from None
    version = document.get("lock-version")
    if version != LOCK_VERSION:
        raise LockError(
            f"{where} has lock-version {version!r}; this mlvm reads {LOCK_VERSION}",
            hint="upgrade mlvm, or write the lock anew with `mlvm lock`",
        )
    reader = _Reader()
    lock = reader.lock(document)
    if reader.complaints or lock is None:
        raise LockError(f"{where} is not a lock", details="\n".join(reader.complaints), hint="mlvm lock")
    return lock


class _Reader:
    """Reads the parts of a document; what is wrong is kept with its path, and reading goes on."""

    def __init__(self) -> None:
        self.complaints: list[str] = []

    def lock(self, document: Mapping[str, Any]) -> Lock | None:
        self.complaints += [f"{key}: unknown key" for key in sorted(document.keys() - KEYS)]
        archives = self.rows(document, "archives", Archive)
        lists = {name: self.rows(document, name, DebianPackage) for name in LISTS}
        name = self.text(document, "name")
        architecture = self.text(document, "architecture")
        guest_kernel = self.text(document, "guest-kernel")
        inputs = self.table(document, "inputs")
        image = self.image(document)
        python = self.python(document)
        self.cross_check(archives, lists, guest_kernel)
        if self.complaints or python is None:
            return None
        return Lock(
            name=name,
            inputs=inputs,
            architecture=architecture,
            guest_kernel=guest_kernel,
            archives=archives,
            system=lists["system"],
            boot=lists["boot"],
            tools=lists["tools"],
            python=python,
            image=image,
        )

    def text(self, table: Mapping[str, Any], key: str, path: str = "") -> str:
        value = table.get(key)
        if not isinstance(value, str) or not value:
            self.complaints.append(f"{path}{key}: text is wanted, found {_shown(value)}")
            return ""
        return value

    def table(self, table: Mapping[str, Any], key: str) -> dict[str, Any]:
        value = table.get(key)
        if not isinstance(value, dict):
            self.complaints.append(f"{key}: a table is wanted, found {_shown(value)}")
            return {}
        return value

    def rows(self, document: Mapping[str, Any], key: str, kind: type[Any]) -> tuple[Any, ...]:
        """Read an array of tables, one frozen `kind` each; names must be sorted and there once."""
        found = document.get(key)
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            self.complaints.append(f"{key}: an array of tables is wanted, found {_shown(found)}")
            return ()
        rows = [self.row(row, f"{key}[{index}].", kind) for index, row in enumerate(found)]
        names = [str(row.get("name")) for row in found]
        if names != sorted(set(names)):
            self.complaints.append(f"{key}: names must be sorted, and each there once")
        return tuple(row for row in rows if row is not None)

    def row(self, row: Mapping[str, Any], path: str, kind: type[Any]) -> Any:
        before = len(self.complaints)
        known = {field.name for field in fields(kind)}
        self.complaints += [f"{path}{key}: unknown key" for key in sorted(row.keys() - known)]
        values: dict[str, Any] = {}
        for field in fields(kind):
            if field.type == "int":
                values[field.name] = self.count(row, field.name, path)
            elif field.type == "str":
                values[field.name] = self.text(row, field.name, path)
            else:
                values[field.name] = self.words(row, field.name, path)
        if kind is DebianPackage:
            self.form(values, "name", PACKAGE_NAME, path)
            self.form(values, "sha256", SHA256, path)
            self.form(values, "filename", POOL_PATH, path)
        return kind(**values) if len(self.complaints) == before else None

    def form(self, values: Mapping[str, Any], key: str, form: re.Pattern[str], path: str) -> None:
        value = values[key]
        if value and (not form.fullmatch(value) or ".." in value.split("/")):
            self.complaints.append(f"{path}{key}: {_shown(value)} has not the form of one")

    def count(self, row: Mapping[str, Any], key: str, path: str) -> int:
        value = row.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self.complaints.append(f"{path}{key}: a whole number is wanted, found {_shown(value)}")
            return 0
        return value

    def words(self, row: Mapping[str, Any], key: str, path: str) -> tuple[str, ...]:
        value = row.get(key)
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            self.complaints.append(f"{path}{key}: an array of text is wanted, found {_shown(value)}")
            return ()
        return tuple(value)

    def image(self, document: Mapping[str, Any]) -> ImageRecord | None:
        if "image" not in document:
            return None
        found = self.table(document, "image")
        self.complaints += [
            f"image.{key}: unknown key" for key in sorted(found.keys() - {"builder", "digests"})
        ]
        digests = found.get("digests")
        if not isinstance(digests, dict) or not all(
            isinstance(value, str) and SHA256.fullmatch(value) for value in digests.values()
        ):
            self.complaints.append("image.digests: a table of digests is wanted")
            return None
        return ImageRecord(builder=self.count(found, "builder", "image."), digests=digests)

    def python(self, document: Mapping[str, Any]) -> Pylock | None:
        found = self.table(document, "python")
        try:
            pylock = Pylock.from_dict(found)
        except PylockValidationError as wrong:
            self.complaints.append(f"python: {wrong}")
            return None
        for index, package in enumerate(pylock.packages):
            path = f"python.packages[{index}]"
            wheels = package.wheels or ()
            if len(wheels) != 1 or package.sdist or package.vcs or package.directory or package.archive:
                self.complaints.append(f"{path}: exactly one wheel is wanted")
                continue
            digest = wheels[0].hashes.get("sha256", "")
            if not SHA256.fullmatch(digest):
                self.complaints.append(
                    f"{path}.wheels[0].hashes.sha256: {_shown(digest)} has not the form of one"
                )
            if not wheels[0].url:
                self.complaints.append(f"{path}.wheels[0].url: text is wanted, found nothing")
        return pylock

    def cross_check(
        self, archives: tuple[Archive, ...], lists: Mapping[str, tuple[DebianPackage, ...]], guest_kernel: str
    ) -> None:
        known = {archive.name for archive in archives}
        for key, packages in lists.items():
            self.complaints += [
                f"{key}: `{package.name}` is from archive `{package.archive}`, which is not among the archives"
                for package in packages
                if package.archive not in known
            ]
        if guest_kernel and lists["boot"] and guest_kernel not in {package.name for package in lists["boot"]}:
            self.complaints.append(f"guest-kernel: `{guest_kernel}` is not among the packages of boot")


def _shown(value: object) -> str:
    return "nothing" if value is None else repr(value)[:60]
