"""A lock as text: TOML, read strictly, written so that it diffs well.

One block a package, sorted; no line that depends on when or where it was written except the archive's timestamp. The
reader gathers every complaint with its path in the document, since a half-merged lock usually has several, and takes
nothing on trust that later becomes part of a URL, a path or a command.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tomli_w
from packaging.pylock import Package, PackageSdist, PackageWheel, Pylock, PylockValidationError
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from mlvm.errors import LockError
from mlvm.lock.document import (
    LOCK_VERSION,
    Archive,
    BoxPin,
    Build,
    CudaRecord,
    DebianPackage,
    ImageRecord,
    Interpreter,
    Lock,
)
from mlvm.lock.tables import (
    APT,
    BOX_NAME,
    DATE,
    DEB_VERSION,
    ENTRY,
    ENTRY_NAME,
    NUMBERS,
    POOL_PATH,
    PROJECT_NAME,
    PROVIDER,
    PUBLISHED,
    PYTHON,
    SHA256,
    TIMESTAMP,
    URL,
    WORD,
    Table,
    shown,
)

HEADER = """\
# What this box is made of, exactly. Written by `mlvm lock`; commit it, and do not edit it.
# `mlvm lock --upgrade NAME` moves a package, `mlvm lock --check` compares with mlvm.yaml, `mlvm diff` reads two.

"""

LISTS = ("system", "apt", "boot", "tools", "box")
#: The lists that are only there when they hold something.
OPTIONAL = frozenset({"apt", "box"})


def dumps(lock: Lock) -> str:
    """Return the lock's text; the same lock always gives the same text."""
    document: dict[str, Any] = {
        "lock-version": LOCK_VERSION,
        "name": lock.name,
        "architecture": lock.architecture,
        "guest-kernel": lock.guest_kernel,
        "inputs": dict(lock.inputs),
    }
    if lock.cuda is not None:
        document["cuda"] = {key: value for key, value in asdict(lock.cuda).items() if value}
    if lock.interpreter is not None:
        document["interpreter"] = asdict(lock.interpreter)
    if lock.image is not None:
        document["image"] = {"builder": lock.image.builder, "digests": dict(lock.image.digests)}
    if lock.published:
        document["published"] = [asdict(pin) for pin in lock.published]
    document["archives"] = [
        {**asdict(archive), "components": list(archive.components)} for archive in lock.archives
    ]
    document["python"] = lock.python.to_dict()
    if lock.builds:
        document["builds"] = [{"name": one.name, "requires": one.requires.to_dict()} for one in lock.builds]
    for name in LISTS:
        if getattr(lock, name) or name not in OPTIONAL:
            document[name] = [asdict(package) for package in getattr(lock, name)]
    return HEADER + tomli_w.dumps(document)


def digest_of(lock: Lock) -> str:
    """Return the SHA-256 of what a lock means: all of it but what was found out by using it."""
    return hashlib.sha256(dumps(replace(lock, image=None, published=())).encode()).hexdigest()


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
    except (ValueError, RecursionError) as broken:
        hint = (
            "this looks like a merge conflict: take either side whole, then `mlvm lock`"
            if re.search(r"^(<<<<<<<|>>>>>>>)", text, re.MULTILINE)
            else "take it from version control, or remove it and `mlvm lock`"
        )
        raise LockError(f"{where} is not TOML: {broken}", hint=hint) from None
    version = document.get("lock-version")
    if version != LOCK_VERSION or version is True:
        raise LockError(
            f"{where} has lock-version {shown(version)}; this mlvm reads {LOCK_VERSION}",
            hint="upgrade mlvm, or remove the file and `mlvm lock`",
        )
    complaints: list[str] = []
    lock = _read(Table(document, "", complaints))
    if complaints:
        raise LockError(
            f"{where} is not a lock",
            details="\n".join(complaints),
            hint="take it from version control, or remove it and `mlvm lock`",
        )
    return lock


def _read(document: Table) -> Lock:
    """Return the lock; it means something only when there are no complaints."""
    document.asked.add("lock-version")
    archives = tuple(_archive(table) for table in document.tables("archives"))
    there = [key for key in LISTS if key not in OPTIONAL or key in document.content]
    lists = {key: tuple(_package(table) for table in document.tables(key)) for key in there}
    python = _pylock(document, "python", built=True)
    lock = Lock(
        name=document.text("name", BOX_NAME),
        inputs=_inputs(document.table("inputs")),
        architecture=document.text("architecture", WORD),
        guest_kernel=document.text("guest-kernel", WORD),
        archives=archives,
        **lists,
        python=python,
        cuda=_cuda(document.table("cuda")) if "cuda" in document.content else None,
        image=_image(document.table("image")) if "image" in document.content else None,
        published=_published(document),
        interpreter=_interpreter(document.table("interpreter"))
        if "interpreter" in document.content
        else None,
        builds=tuple(_build(table) for table in document.tables("builds"))
        if "builds" in document.content
        else (),
    )
    document.close()
    if not document.complaints:
        document.complaints += _cross_check(lock)
    return lock


def _inputs(table: Table) -> dict[str, object]:
    packages = list(table.texts("packages"))
    for index, text in enumerate(packages):
        try:
            Requirement(text)
        except InvalidRequirement:
            table.complain(f"packages[{index}]", "a requirement", text)
    found: dict[str, object] = {
        "debian": table.text("debian", WORD),
        "python": table.text("python", PYTHON),
        "packages": packages,
    }
    if "apt" in table.content:
        found["apt"] = list(table.texts("apt", APT))
    if "sdists" in table.content:
        found["sdists"] = list(table.texts("sdists", PROJECT_NAME))
    if "editable" in table.content:
        found["editable"] = [_editable(one) for one in table.tables("editable")]
    if "index" in table.content:
        places = table.table("index")
        found["index"] = {name: places.text(name, URL) for name in places.content}
    if "cuda" in table.content:
        found["cuda"] = _cuda_inputs(table.table("cuda"))
    table.close()
    return found


def _editable(table: Table) -> dict[str, object]:
    """Return a package of the project; its entry points become files and commands in the image."""
    groups = table.table("entries")
    entries = {}
    for group in groups.content:
        names = groups.table(group)
        entries[group] = {name: names.text(name, ENTRY) for name in names.content}
        if not all(ENTRY_NAME.pattern.fullmatch(name) for name in (group, *names.content)):
            groups.complain(group, f"{ENTRY_NAME.words}, in all of it,", names.content)
    found: dict[str, object] = {
        "name": table.text("name", PROJECT_NAME),
        "version": table.text("version", ENTRY_NAME),
        "code": "src" if table.get("code") else "",
        "entries": entries,
    }
    if table.get("code") not in ("", "src"):
        table.complain("code", "`src` or nothing", table.get("code"))
    table.close()
    return found


def _cuda_inputs(table: Table) -> dict[str, object]:
    found: dict[str, object] = {"version": table.text("version", NUMBERS)}
    for key in ("cudnn", "driver"):
        if key in table.content:
            found[key] = table.text(key, NUMBERS)
    if "arch" in table.content:
        found["arch"] = list(table.texts("arch", NUMBERS))
    if "nvcc" in table.content:
        if table.get("nvcc") is not True:
            table.complain("nvcc", "true", table.get("nvcc"))
        found["nvcc"] = True
    table.close()
    return found


def _cuda(table: Table) -> CudaRecord:
    others = {
        key: table.text(key, NUMBERS) if key in table.content else "" for key in ("cudnn", "driver", "arch")
    }
    record = CudaRecord(version=table.text("version", NUMBERS), table=table.text("table", DATE), **others)
    table.close()
    return record


def _interpreter(table: Table) -> Interpreter:
    found = Interpreter(
        version=table.text("version", NUMBERS),
        url=table.text("url", URL),
        sha256=table.text("sha256", SHA256),
    )
    table.close()
    return found


def _archive(table: Table) -> Archive:
    archive = Archive(
        name=table.text("name", WORD),
        uri=table.text("uri", URL),
        snapshot=table.text("snapshot", URL),
        suite=table.text("suite", WORD),
        components=table.texts("components", WORD),
        timestamp=table.text("timestamp", TIMESTAMP),
    )
    table.close()
    return archive


def _package(table: Table) -> DebianPackage:
    package = DebianPackage(
        name=table.text("name", WORD),
        version=table.text("version", DEB_VERSION),
        architecture=table.text("architecture", WORD),
        archive=table.text("archive", WORD),
        filename=table.text("filename", POOL_PATH),
        size=table.count("size"),
        sha256=table.text("sha256", SHA256),
    )
    table.close()
    return package


def _image(table: Table) -> ImageRecord:
    digests = table.table("digests")
    record = ImageRecord(
        builder=table.count("builder"),
        digests={key: digests.text(key, SHA256) for key in digests.content},
    )
    table.close()
    return record


def _published(document: Table) -> tuple[BoxPin, ...]:
    value = document.get("published") or []
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        document.complain("published", "an array of tables", value)
        return ()
    pins = []
    for index, row in enumerate(value):
        table = Table(row, f"published[{index}].", document.complaints)
        pin = BoxPin(
            name=table.text("name", PUBLISHED),
            version=table.text("version", NUMBERS),
            provider=table.text("provider", PROVIDER),
            architecture=table.text("architecture", WORD),
            sha256=table.text("sha256", SHA256),
        )
        table.close()
        pins.append(pin)
    return tuple(pins)


def _build(table: Table) -> Build:
    build = Build(name=table.text("name", PROJECT_NAME), requires=_pylock(table, "requires"))
    table.close()
    return build


def _pylock(document: Table, key: str, *, built: bool = False) -> Pylock:
    """Return a PEP 751 document in a table; where `built`, its wheels may come out of sdists."""
    found, path = document.table(key), f"{document.path}{key}"
    try:
        pylock = Pylock.from_dict(found.content)
    except PylockValidationError as wrong:
        document.complaints.append(f"{path}.{wrong.context}: ".replace(".None: ", ": ") + wrong.message)
        return Pylock(lock_version=Version("1.0"), created_by="mlvm", packages=[])
    document.complaints += _unknown_keys(found.content, pylock.to_dict(), path)
    for index, package in enumerate(pylock.packages):
        document.complaints += _wheel_complaints(package, f"{path}.packages[{index}]", built=built)
    names = [package.name for package in pylock.packages]
    if names != sorted(set(names)):
        document.complaints.append(f"{path}.packages: names must be sorted, and each there once")
    return pylock


def _unknown_keys(found: object, understood: object, path: str) -> list[str]:
    """`packaging` reads the keys it knows and drops the others: what is missing from its copy is unknown."""
    if isinstance(found, dict) and isinstance(understood, dict):
        unknown = [f"{path}.{key}: unknown key" for key in sorted(found.keys() - understood.keys())]
        shared = sorted(found.keys() & understood.keys())
        return unknown + [
            line for key in shared for line in _unknown_keys(found[key], understood[key], f"{path}.{key}")
        ]
    if isinstance(found, list) and isinstance(understood, list):
        return [
            line
            for index, (mine, theirs) in enumerate(zip(found, understood, strict=False))
            for line in _unknown_keys(mine, theirs, f"{path}[{index}]")
        ]
    return []


def _wheel_complaints(package: Package, path: str, *, built: bool) -> list[str]:
    """Say what keeps a package from being one wheel with one digest at one place; `packaging` checked its name."""
    wheels = package.wheels or ()
    sdist = package.sdist if built else None
    if (
        len(wheels) != 1
        or (package.sdist and not built)
        or package.vcs
        or package.directory
        or package.archive
    ):
        return [f"{path}: exactly one wheel is wanted"]
    lines = _file_complaints(sdist, f"{path}.sdist") if sdist else []
    return lines + _file_complaints(wheels[0], f"{path}.wheels[0]", here=sdist is not None)


def _file_complaints(file: PackageWheel | PackageSdist, path: str, *, here: bool = False) -> list[str]:
    """Say what a file lacks of a place and a digest; one that was built `here` has its bare name for a place."""
    table = Table({"url": file.url, "path": file.path, **file.hashes}, f"{path}.", [])
    if here:
        if file.path != file.filename or file.url is not None:
            table.complain("path", "the bare name of a wheel that is built", file.url or file.path)
    else:
        table.text("url", URL)
    if not here and file.path is not None:
        table.complaints.append(f"{path}.path: unknown key")
    table.path += "hashes."
    table.text("sha256", SHA256)
    return table.complaints


def _cross_check(lock: Lock) -> list[str]:
    """Say what does not fit together in a document whose parts are all right."""
    known = {archive.name for archive in lock.archives}
    complaints = [
        f"{key}: `{package.name}` is from archive `{package.archive}`, which is not among the archives"
        for key in LISTS
        for package in getattr(lock, key)
        if package.archive not in known
    ]
    python = str(lock.inputs["python"])
    if (lock.interpreter is None) != (python == lock.system_python):
        complaints.append(
            f"interpreter: Python {python} is wanted, and Debian's own is {lock.system_python}: "
            + ("nothing says where it comes from" if lock.interpreter is None else "another is not needed")
        )
    elif lock.interpreter and not f"{lock.interpreter.version}.".startswith(f"{python.rstrip('t')}."):
        complaints.append(f"interpreter: {lock.interpreter.version} is not Python {python}")
    built = [str(package.name) for package in lock.python.packages if package.sdist]
    if built != [build.name for build in lock.builds]:
        complaints.append(
            f"builds: wanted for {', '.join(built) or 'nothing'}, which have an sdist in `python`"
        )
    if lock.guest_kernel not in {package.name for package in lock.boot}:
        complaints.append(f"guest-kernel: `{lock.guest_kernel}` is not among the packages of boot")
    return complaints
