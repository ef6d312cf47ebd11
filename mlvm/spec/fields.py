"""Shapes made of shapes: lists, mappings, records with fixed fields.

Like `scalars`, each reads a node and describes itself as JSON Schema; `table` puts them together into the document.
A reader tells its `Place` what is wrong and goes on, so that all complaints come at once, and returns what can still
be used, so that checks between fields can be made as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from mlvm.spec.complaints import Place, shown
from mlvm.spec.nodes import Keyed, Listing, Node, Scalar
from mlvm.spec.scalars import Schema, complain_of_shape, nearest

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Shape(Protocol[T_co]):
    """What a value may look like."""

    def read(self, node: Node, at: Place) -> T_co | None:
        """Return the value, or None after saying why not."""

    def schema(self) -> Schema:
        """Describe the shape as JSON Schema."""

    def words(self) -> str:
        """Describe the shape in a few words, for complaints and the table of fields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListOf(Generic[T]):
    """A list of things of one shape. `same` gives what two entries may not share, and `twice` says so."""

    item: Shape[T]
    longest: int = 1000
    same: Callable[[T], object] | None = None
    twice: str = "`{}` is there twice"

    def read(self, node: Node, at: Place) -> tuple[T, ...] | None:
        """Return the entries that can be used."""
        if not isinstance(node, Listing):
            complain_of_shape(node, at, self.words())
            return None
        if len(node.items) > self.longest:
            at.complain(node.mark, f"more than {self.longest} entries")
            return None
        found: list[T] = []
        seen: set[object] = set()
        for number, entry in enumerate(node.items):
            value = self.item.read(entry, at.below(number))
            if value is None:
                continue
            if self.same is not None:
                if (key := self.same(value)) in seen:
                    at.below(number).complain(entry.mark, self.twice.format(key))
                    continue
                seen.add(key)
            found.append(value)
        return tuple(found)

    def schema(self) -> Schema:
        """Describe the entries."""
        return {"type": "array", "items": self.item.schema(), "maxItems": self.longest}

    def words(self) -> str:
        """Name the entries."""
        return f"a list, each entry {self.item.words()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MapOf(Generic[T]):
    """A mapping from names that match `key` to things of one shape."""

    key: str
    key_rule: str
    value: Shape[T]
    most: int = 1000

    def read(self, node: Node, at: Place) -> Mapping[str, T] | None:
        """Return the entries that can be used."""
        if not isinstance(node, Keyed):
            complain_of_shape(node, at, self.words())
            return None
        if len(node.entries) > self.most:
            at.complain(node.mark, f"more than {self.most} entries")
            return None
        found: dict[str, T] = {}
        for key, entry in node.entries:
            below = at.below(key.text)
            if not re.fullmatch(self.key, key.text):
                below.complain(key.mark, f"`{shown(key.text)}` is not {self.key_rule}")
            value = self.value.read(entry, below)
            if value is not None:
                found[key.text] = value
        return MappingProxyType(found)

    def schema(self) -> Schema:
        """Describe names and values."""
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^(?:{self.key})$"},
            "additionalProperties": self.value.schema(),
            "maxProperties": self.most,
        }

    def words(self) -> str:
        """Name both."""
        return f"a mapping from {self.key_rule} to {self.value.words()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field of a record: its shape, and what editors and the reference say of it."""

    shape: Shape[object]
    text: str
    examples: Sequence[object] = ()
    default: object = None
    required: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Record(Generic[T]):
    """A mapping with fixed fields; `make` builds its value when every field that is there could be read.

    `elsewhere` maps names that people look for here to the sentence that helps them on.
    """

    fields: Mapping[str, Field]
    make: Callable[[dict[str, Any]], T]
    noun: str
    elsewhere: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def read(self, node: Node, at: Place) -> T | None:
        """Return the record."""
        if not isinstance(node, Keyed):
            complain_of_shape(node, at, self.words())
            return None
        before = len(at.report.complaints)
        values = self.read_fields(node, at)
        complete = not any(f.required and name not in values for name, f in self.fields.items())
        wrong = len(at.report.complaints) > before
        return self.make(values) if complete and not wrong else None

    def read_fields(self, node: Keyed, at: Place, *, partial: bool = False) -> dict[str, Any]:
        """Return the fields that could be read, by name; `partial` records may lack required ones."""
        values: dict[str, Any] = {}
        for key, entry in node.entries:
            known = self.fields.get(key.text)
            below = at.below(key.text)
            if known is None:
                below.complain(key.mark, self._unknown(key.text))
                continue
            value = known.shape.read(entry, below)
            if value is not None:
                values[key.text] = value
        for name, wanted in self.fields.items():
            if wanted.required and not partial and node.find(name) is None:
                at.complain(node.mark, f"`{name}` is missing")
        return values

    def _unknown(self, name: str) -> str:
        if hint := self.elsewhere.get(name.lower()):
            return f"there is no `{shown(name)}` here: {hint}"
        guess = nearest(name, self.fields)
        if guess:
            return f"there is no `{shown(name)}`; did you mean `{guess}`?"
        return f"there is no `{shown(name)}`; known here: {', '.join(self.fields)}"

    def schema(self) -> Schema:
        """Describe every field."""
        found: Schema = {
            "type": "object",
            "properties": {name: describe(one) for name, one in self.fields.items()},
            "additionalProperties": False,
        }
        if required := [name for name, one in self.fields.items() if one.required]:
            found["required"] = required
        return found

    def words(self) -> str:
        """Name the fields."""
        named = [f"`{name}: ...`" for name in self.fields]
        return f"{self.noun} ({', '.join(named[:3])}{', ...' if len(named) > 3 else ''})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Either(Generic[T]):
    """A short form in one word, made into the same value as the long form by `from_short`."""

    short: Shape[Any]
    from_short: Callable[[Any], T]
    long: Record[T]

    def read(self, node: Node, at: Place) -> T | None:
        """Return the value from the form that is there."""
        if isinstance(node, Scalar):
            value = self.short.read(node, at)
            return None if value is None else self.from_short(value)
        return self.long.read(node, at)

    def schema(self) -> Schema:
        """Describe both forms."""
        return {"anyOf": [self.short.schema(), self.long.schema()]}

    def words(self) -> str:
        """Name the short form."""
        return self.short.words()


@dataclass(frozen=True, kw_only=True, slots=True)
class EitherWord(Generic[T]):
    """One of a few words, each of which stands for a value, or the value itself."""

    words_: Mapping[str, T]
    other: Shape[T]

    def read(self, node: Node, at: Place) -> T | None:
        """Return the value that a word stands for, or the one that is there."""
        if isinstance(node, Scalar) and node.text in self.words_:
            return self.words_[node.text]
        if isinstance(node, Scalar):
            complain_of_shape(node, at, self.words())
            return None
        return self.other.read(node, at)

    def schema(self) -> Schema:
        """Describe both."""
        return {"anyOf": [{"enum": list(self.words_)}, self.other.schema()]}

    def words(self) -> str:
        """Name the words, and the value."""
        return f"{', '.join(f'`{word}`' for word in self.words_)} or {self.other.words()}"


def describe(one: Field) -> Schema:
    """Return the JSON Schema of a field."""
    found = {"description": one.text, **one.shape.schema()}
    if one.default is not None:
        found["default"] = one.default
    if one.examples:
        found["examples"] = list(one.examples)
    return found
