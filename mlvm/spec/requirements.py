"""Requirements of Python packages: single ones, `requirements.txt` and `pyproject.toml`.

`packaging` reads each requirement; this module finds them in files and says where a bad one stands. What a lock
cannot honour is refused rather than dropped: editable installs, URLs, local folders, other indexes, constraints. The
one thing that is dropped, with a note, are hashes: the lock pins every file by a digest of its own.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from mlvm.spec.complaints import Mark, Place, shown
from mlvm.spec.nodes import Node
from mlvm.spec.scalars import Schema, is_text, scalar_of

#: Long enough for thousands of pins with hashes.
MOST_BYTES = 4 * 1024 * 1024
MOST_FILES = 50
LONGEST = 1000

#: What JSON Schema can say of a requirement: a name, then anything but a URL.
ROUGHLY = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?(?: *(?:[\[(<>!~;]|==)[^@]*)?"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One requirement: its normalised text, and where it stands (`path` within the spec, `mark` in its file)."""

    name: str
    text: str
    marker: str
    mark: Mark
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FromFile:
    """What a requirements file says: the requirements, and the Pythons it is for, if it says so."""

    wanted: tuple[Wanted, ...] = ()
    requires_python: SpecifierSet | None = None
    requires_python_mark: Mark | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RequirementText:
    """The shape of an entry of `packages`."""

    def read(self, node: Node, at: Place) -> Wanted | None:
        """Return the requirement."""
        scalar = scalar_of(node, at, self.words())
        if scalar is None or not is_text(scalar, at):
            return None
        return parse(scalar.text, scalar.mark, at, offset=0 if scalar.plain else 1)

    def schema(self) -> Schema:
        """Describe it roughly: PEP 508 is beyond a pattern."""
        return {"type": "string", "pattern": f"^{ROUGHLY}$", "maxLength": LONGEST}

    def words(self) -> str:
        """Say what it is."""
        return "a package such as `numpy>=2,<3`"


def parse(text: str, mark: Mark, at: Place, *, offset: int = 0) -> Wanted | None:
    """Return the requirement in `text`, which starts `offset` columns right of `mark`, or None after complaining."""
    if len(text) > LONGEST:
        at.complain(mark, f"longer than {LONGEST} characters")
        return None
    try:
        found = Requirement(text)
    except InvalidRequirement as broken:
        at.complain(_narrowed(mark, text, broken, offset), _why(text, broken))
        return None
    except RecursionError:
        at.complain(mark, f"`{shown(text)}` is nested too deeply")
        return None
    if found.url is not None:
        at.complain(mark, f"`{shown(text)}` names a URL; not yet: packages that are not on an index")
        return None
    found.name = canonicalize_name(found.name)
    if found.name == "python":
        at.complain(mark, "Python itself is chosen by the field `python`")
        return None
    return Wanted(name=found.name, text=str(found), marker=str(found.marker or ""), mark=mark, path=at.path)


def without_twice(wanted: Sequence[Wanted], at: Place) -> tuple[Wanted, ...]:
    """Return `wanted` with each package once, complaining of the others; different markers keep both."""
    kept: dict[str, list[Wanted]] = {}
    for one in wanted:
        others = kept.setdefault(one.name, [])
        clash = next((o for o in others if not (o.marker and one.marker and o.marker != one.marker)), None)
        if clash is None:
            others.append(one)
            continue
        where = f"line {clash.mark.line}" if clash.mark.file == one.mark.file else f"`{clash.mark}`"
        Place(report=at.report, path=one.path).complain(
            one.mark, f"`{one.name}` is there twice; first in {where}"
        )
    return tuple(one for one in wanted if any(one is k for k in kept[one.name]))


def read_file(path: Path, mark: Mark, at: Place) -> FromFile:
    """Return what the requirements file `path` says; `mark` is where the spec names it."""
    if path.suffix == ".toml":
        text = read_text(path, mark, at, most=MOST_BYTES)
        return FromFile() if text is None else _from_pyproject(text, path, at)
    lines = _Lines(at=at)
    wanted = tuple(lines.read(path, mark))
    for file in lines.hashed:
        at.report.notes.append(
            f"{file}: its hashes are not used; the lock pins the digest of every file itself"
        )
    return FromFile(wanted=wanted)


def read_lines(lines: Sequence[str], path: Path, at: Place) -> tuple[Wanted, ...]:
    """Return the requirements in lines as of a requirements.txt; `path` is the file that has them."""
    reading = _Lines(at=at)
    found: list[Wanted] = []
    for number, indent, line in _logical_lines("\n".join(lines)):
        found += reading.line(line, Mark(file=str(path), line=number, column=indent + 1), path)
    return tuple(found)


def read_text(path: Path, mark: Mark, at: Place, *, most: int) -> str | None:
    """Return the text of a file, or None after saying at `mark` why it cannot be had."""
    try:
        if not path.is_file():
            at.complain(mark, f"there is no file `{shown(str(path), 200)}`")
            return None
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except (OSError, ValueError) as broken:  # ValueError: a NUL in the name
        said = broken.strerror if isinstance(broken, OSError) and broken.strerror else str(broken)
        at.complain(mark, f"`{shown(str(path), 200)}` cannot be read: {said}")
        return None
    if len(content) > most:
        at.complain(Mark(file=str(path)), f"the file is larger than {most // 1024} KiB")
        return None
    return decode(content, str(path), at)


def decode(content: bytes, file: str, at: Place) -> str | None:
    """Return UTF-8 bytes as text, or None after saying where they are none. A byte order mark is taken off."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        at.complain(Mark(file=file), "the file is UTF-16 (an old PowerShell writes that); save it as UTF-8")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        before = broken.object[: broken.start]
        line = before.rpartition(b"\n")[2].decode(errors="replace")
        mark = Mark(file=file, line=before.count(b"\n") + 1, column=len(line) + 1)
        at.complain(mark, f"byte 0x{broken.object[broken.start]:02X} is not UTF-8; save the file as UTF-8")
        return None


def _why(text: str, broken: InvalidRequirement) -> str:
    said = f"`{shown(text)}` is not a requirement: "
    name = r"[A-Za-z0-9._-]+"
    if conda := re.fullmatch(rf"\s*({name})\s*=\s*([A-Za-z0-9.*+!-]+)(=.*)?", text):
        return f"{said}a single `=` is conda's; write `{conda[1]}=={conda[2]}`"
    if spaced := re.fullmatch(rf"\s*({name})\s+([0-9][A-Za-z0-9.]*)\s*", text):
        return f"{said}write `{spaced[1]}=={spaced[2]}`"
    reason = shown(str(broken).splitlines()[0], 150)
    return said + reason[:1].lower() + reason[1:]


def _narrowed(mark: Mark, text: str, broken: InvalidRequirement, offset: int) -> Mark:
    """Return the column that `packaging` points at, where text and file run alike."""
    span = getattr(broken.__cause__, "span", None)
    if span is None or "\n" in text:
        return mark
    return mark.right(offset + min(span[0], len(text)))


def _logical_lines(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield number, indent and text of each line that says something, continuations joined, comments taken off."""
    joined, start = "", 0
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        start = start if joined else number
        comment = re.match(r"\s*#", line)
        if line.endswith("\\") and not comment:
            joined += line[:-1] + " "
            continue
        whole = joined + ("" if comment else line)
        joined = ""
        said = re.sub(r"(^|\s+)#.*$", "", whole).rstrip()
        if said.strip():
            yield start, len(said) - len(said.lstrip()), said.strip()


def _is_local(said: str) -> bool:
    return bool(re.match(r"[.~/\\]|[A-Za-z]:[\\/]|[A-Za-z+]+://", said)) or said.endswith(
        (".whl", ".tar.gz", ".zip")
    )


@dataclass(kw_only=True, slots=True)
class _Lines:
    """Reads `requirements.txt` and what it includes; counts files, because two includes a file make thousands."""

    at: Place
    open_now: list[Path] = field(default_factory=list)
    files: int = 0
    hashed: dict[str, None] = field(default_factory=dict)

    def read(self, path: Path, mark: Mark) -> Iterator[Wanted]:
        """Yield the requirements of `path`; `mark` is where it is named."""
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):
            real = path
        self.files += 1
        if real in self.open_now:
            self.at.complain(mark, f"`{shown(str(path), 200)}` includes itself")
        elif self.files > MOST_FILES:
            if self.files == MOST_FILES + 1:
                self.at.complain(mark, f"more than {MOST_FILES} files are included")
        elif (text := read_text(path, mark, self.at, most=MOST_BYTES)) is not None:
            self.open_now.append(real)
            for number, indent, line in _logical_lines(text):
                yield from self.line(line, Mark(file=str(path), line=number, column=indent + 1), path)
            self.open_now.pop()

    def line(self, line: str, mark: Mark, path: Path) -> Iterator[Wanted]:
        """Yield what a line asks for."""
        if line.startswith("-"):
            yield from self.option(line, mark, path)
            return
        said, *options = re.split(r"\s+(?=--?[a-z])", line)
        for option in options:
            if option.startswith("--hash"):
                self.hashed[mark.file] = None
            else:
                self.at.complain(mark, f"`{shown(option)}` after a requirement is not supported")
        if _is_local(said):
            self.at.complain(mark, f"`{shown(said)}`: not yet: URLs, local files and folders")
        elif wanted := parse(said, mark, self.at):
            yield wanted

    def option(self, line: str, mark: Mark, path: Path) -> Iterator[Wanted]:
        """Follow an include; complain of options that change what would be installed."""
        if line == "--require-hashes":
            self.hashed[mark.file] = None
        elif include := re.fullmatch(r"(?:-r\s*|--requirement(?:\s+|=))(\S.*)", line):
            yield from self.read(path.parent / include[1].strip("\"'"), mark)
        elif re.match(r"-e|--editable\b", line):
            self.at.complain(mark, f"`{shown(line)}` is an editable install, which no lock can pin")
        elif found := re.match(r"-i\b|--index-url|--extra-index-url|-f\b|--find-links|--no-index", line):
            self.at.complain(mark, f"`{found[0]}`: not yet: other indexes than PyPI")
        elif re.match(r"-c|--constraint", line):
            self.at.complain(
                mark, f"`{shown(line)}`: not yet: constraint files; write the bounds as requirements"
            )
        else:
            self.at.complain(mark, f"`{shown(line)}` is an option that a lock cannot honour")


def _from_pyproject(text: str, path: Path, at: Place) -> FromFile:
    start = Mark(file=str(path))
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as broken:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(broken))
        mark = Mark(file=str(path), line=int(found[1]), column=int(found[2])) if found else start
        at.complain(mark, f"this is not TOML: {shown(str(broken).partition(' (at ')[0], 150)}")
        return FromFile()
    project = document.get("project")
    if not isinstance(project, dict):
        known = (
            " (Poetry's own table is not read)" if "poetry" in str(document.get("tool", ""))[:10_000] else ""
        )
        at.complain(start, f"there is no `[project]` table with `dependencies`{known}")
        return FromFile()
    wanted = tuple(_from_dependencies(project, text, path, at))
    return replace(_requires_python(project, text, path, at), wanted=wanted)


def _from_dependencies(project: dict[str, Any], text: str, path: Path, at: Place) -> Iterator[Wanted]:
    dynamic = project.get("dynamic")
    if isinstance(dynamic, list) and "dependencies" in dynamic:
        at.complain(
            _find(text, "dynamic", path), "`dependencies` are dynamic: only a build backend could tell them"
        )
        return
    listed = project.get("dependencies", [])
    if not isinstance(listed, list):
        at.complain(_find(text, "dependencies", path), "`project.dependencies` must be a list")
        return
    for number, entry in enumerate(listed):
        if not isinstance(entry, str):
            at.complain(_find(text, "dependencies", path), f"`project.dependencies[{number}]` must be text")
        elif wanted := parse(entry, _find(text, entry, path), at):
            yield wanted


def _requires_python(project: dict[str, Any], text: str, path: Path, at: Place) -> FromFile:
    said = project.get("requires-python")
    if said is None:
        return FromFile()
    mark = _find(text, "requires-python", path)
    try:
        return FromFile(requires_python=SpecifierSet(said), requires_python_mark=mark)
    except (InvalidSpecifier, TypeError, AttributeError):
        at.complain(mark, "`project.requires-python` is not a version specifier")
        return FromFile()


def _find(text: str, what: str, path: Path) -> Mark:
    """Return where `what` stands in a TOML text, as well as a search can tell: tomllib keeps no positions."""
    place = max(text.find(what), 0)
    before = text[:place]
    return Mark(file=str(path), line=before.count("\n") + 1, column=place - before.rfind("\n"))
