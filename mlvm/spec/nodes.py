"""YAML text as nodes with positions, strictly.

PyYAML scans; what the scanned text means is decided here, because a spec must mean the same to every YAML reader. A
word that YAML 1.1 or 1.2 takes for a number, a truth value or a date gets that kind, and readers that want text then
ask for quotes. What makes documents surprising or dangerous is refused by name: anchors and aliases, tags, merge
keys, duplicate keys, several documents, deep nesting, large files. The nodes are built from PyYAML's events: composing
recurses, and an alias bomb is cheapest when no alias is ever followed. The scanner in Python is used even where the C
one is there, so that everybody reads the same words of complaint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import yaml

from mlvm.spec.complaints import Mark, Place, shown

#: Ten lines are 200 bytes; five hundred pinned packages 12 KiB.
MOST_BYTES = 64 * 1024
DEEPEST = 12


class Kind(StrEnum):
    """What a scalar is, in the words of a complaint."""

    TEXT = "text"
    WHOLE = "a whole number"
    NUMBER = "a number"
    TRUTH = "a truth value"
    NOTHING = "nothing"
    DATE = "a date"
    REFUSED = "refused"  # already complained of: whoever reads it says nothing more


@dataclass(frozen=True, kw_only=True, slots=True)
class Scalar:
    """A single value: its text as written, and what that text is without quotes (with quotes always TEXT)."""

    mark: Mark
    text: str
    kind: Kind
    plain: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """A list."""

    mark: Mark
    items: tuple[Node, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Keyed:
    """A mapping; every key is text, and there once."""

    mark: Mark
    entries: tuple[tuple[Scalar, Node], ...]

    def find(self, key: str) -> Node | None:
        """Return the value of `key`, or None."""
        return next((value for found, value in self.entries if found.text == key), None)


Node = Scalar | Listing | Keyed

# YAML 1.2's core schema, where PyYAML's resolver (YAML 1.1) sees only text.
_CORE_WHOLE = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_CORE_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)")
_KINDS = {
    "str": Kind.TEXT,
    "int": Kind.WHOLE,
    "float": Kind.NUMBER,
    "bool": Kind.TRUTH,
    "null": Kind.NOTHING,
    "timestamp": Kind.DATE,
    "merge": Kind.TEXT,
    "value": Kind.TEXT,
}


def kind_of(text: str) -> Kind:
    """Return what `text` without quotes is to YAML 1.1 or, when that says text, to YAML 1.2."""
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], []):
        if pattern.match(text) and not text.endswith("\n"):
            return _KINDS[tag.rpartition(":")[2]]
    if _CORE_WHOLE.fullmatch(text):
        return Kind.WHOLE
    return Kind.NUMBER if _CORE_NUMBER.fullmatch(text) else Kind.TEXT


def parse(text: str, file: str, *, at: Place) -> Node | None:
    """Return the one document in `text`, or None when there is none that can be read; complaints go to `at`."""
    start = Mark(file=file)
    if len(text.encode(errors="replace")) > MOST_BYTES:
        at.complain(start, f"the file is larger than {MOST_BYTES // 1024} KiB, which no spec needs")
        return None
    text = text.removeprefix("\ufeff")
    try:
        return _Builder(text, file, at).document()
    except _TooDeepError as deep:
        at.complain(deep.mark, f"nested more than {DEEPEST} deep")
    except yaml.reader.ReaderError as broken:
        at.complain(
            _mark_of(text, broken.position, file), f"character {_number(broken.character)} has no place here"
        )
    except yaml.MarkedYAMLError as broken:
        at.complain(*_explained(text, broken, file))
    except (yaml.YAMLError, ValueError, OverflowError) as broken:  # "\UFFFFFFFF", "%YAML 1.<5000 digits>"
        at.complain(start, f"this is not YAML: {shown(str(broken))}")
    return None


class _TooDeepError(Exception):
    """The document is nested deeper than any spec; `mark` is where."""

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark


class _Builder:
    """Builds the nodes of one document from PyYAML's events, complaining of what is refused."""

    def __init__(self, text: str, file: str, at: Place) -> None:
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)
        self.file = file
        self.at = at

    def document(self) -> Node | None:
        """Build the first document; complain when there is none, or another."""
        next(self.events)  # the stream's start
        if isinstance(next(self.events), yaml.StreamEndEvent):
            self.at.complain(Mark(file=self.file), "the file is empty")
            return None
        node = self.node(next(self.events), 0)
        next(self.events)  # the document's end
        following = next(self.events)
        if isinstance(following, yaml.DocumentStartEvent):
            self.at.complain(self.mark(following), "a second document starts here; a spec is one")
        return node

    def mark(self, event: yaml.Event) -> Mark:
        """Return where `event` starts."""
        start = event.start_mark
        assert start is not None
        return Mark(file=self.file, line=start.line + 1, column=start.column + 1)

    def node(self, event: yaml.Event, depth: int) -> Node:
        """Build the node that starts with `event`, and read its events to their end."""
        mark = self.mark(event)
        if isinstance(event, yaml.AliasEvent):
            name = shown(event.anchor or "")
            self.at.complain(mark, f"aliases (`*{name}`) are not used in specs: write the value out")
            return Scalar(mark=mark, text="", kind=Kind.REFUSED)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        refused = self.refuse_properties(event, mark)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event, mark, refused=refused)
        if depth >= DEEPEST:
            # Raised, not collected: what is deeper is not looked at.
            raise _TooDeepError(mark)
        if isinstance(event, yaml.SequenceStartEvent):
            return Listing(mark=mark, items=tuple(self.items(depth)))
        return Keyed(mark=mark, entries=tuple(self.entries(depth)))

    def refuse_properties(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, mark: Mark) -> bool:
        """Complain of an anchor or a tag."""
        if event.anchor is not None:
            name = shown(event.anchor)
            self.at.complain(mark, f"anchors (`&{name}`) are not used in specs: write the value out")
        if event.tag is not None:
            tag = shown(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self.at.complain(mark, f"tags (`{tag}`) are not used in specs: text goes in quotes")
        return event.anchor is not None or event.tag is not None

    def scalar(self, event: yaml.ScalarEvent, mark: Mark, *, refused: bool) -> Scalar:
        """Build a scalar."""
        plain = event.style is None
        kind = kind_of(event.value) if plain else Kind.TEXT
        if not _encodable(event.value):
            self.at.complain(mark, "half a surrogate pair is no character")
            refused = True
        return Scalar(mark=mark, text=event.value, kind=Kind.REFUSED if refused else kind, plain=plain)

    def items(self, depth: int) -> Iterator[Node]:
        """Build the entries of a list."""
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self.node(event, depth + 1)

    def entries(self, depth: int) -> Iterator[tuple[Scalar, Node]]:
        """Build the entries of a mapping whose keys can be used."""
        seen: dict[str, Mark] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            if (why := _key_trouble(key, seen)) is not None:
                if why:
                    self.at.complain(key.mark, why)
                continue
            assert isinstance(key, Scalar)
            seen[key.text] = key.mark
            yield key, value


def _key_trouble(key: Node, seen: dict[str, Mark]) -> str | None:
    """Return what is wrong with a key: None for nothing, "" when it was said already."""
    if not isinstance(key, Scalar):
        return "a key must be a word"
    if key.kind is Kind.REFUSED:
        return ""
    if key.plain and key.text == "<<":
        return "merge keys (`<<`) are not used in specs: a `template` is what can be inherited"
    if key.kind is not Kind.TEXT:
        quotes = f"`{shown(key.text)}` without quotes is {key.kind} to YAML, not a key: put it in quotes"
        return quotes if key.text else "a key is missing here"
    if key.text in seen:
        return f"`{shown(key.text)}` is there twice; the first is in line {seen[key.text].line}"
    return None


def _encodable(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _mark_of(text: str, position: int, file: str) -> Mark:
    before = text[:position]
    return Mark(file=file, line=before.count("\n") + 1, column=position - (before.rfind("\n") + 1) + 1)


def _number(character: str | int | bytes) -> str:
    code = character if isinstance(character, int) else ord(character)
    return f"U+{code:04X}"


def _explained(text: str, broken: yaml.MarkedYAMLError, file: str) -> tuple[Mark, str]:
    """Return where PyYAML gave up and its words, or better ones for the mistake that everybody makes."""
    found = broken.problem_mark or broken.context_mark
    if found is None:
        return Mark(file=file), shown(str(broken))
    mark = Mark(file=file, line=found.line + 1, column=found.column + 1)
    line = (text.splitlines() or [""])[min(found.line, len(text.splitlines()) - 1)]
    if "\t" in line[: found.column + 1] and not line[: found.column].strip():
        return mark, "a tab stands where YAML wants spaces"
    said = shown(broken.problem or "this is not YAML", 200)
    if broken.context and broken.context_mark is not None:
        said += f" ({shown(broken.context, 100)} in line {broken.context_mark.line + 1})"
    return mark, said
