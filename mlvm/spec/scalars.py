"""Shapes of single values: text, a choice of words, whole numbers, truth values, sizes.

Each reads a node and describes itself as JSON Schema, side by side because both must say the same. A reader never
raises: it tells its `Place` what is wrong and returns None. Most of the care goes into what YAML makes of words
without quotes: `3.10` is the number 3.1, `no` is false and `22:22` is 1342, so text must look like text to every
YAML reader, 1.1 or 1.2, and a complaint shows how to write it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import yaml

from mlvm.spec.complaints import Place, shown
from mlvm.spec.document import MIB
from mlvm.spec.nodes import Kind, Listing, Node, Scalar

Schema = dict[str, Any]

#: How whole numbers are written: no plus, no leading zero, nothing that any YAML takes for something else.
PLAIN_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")
MOST_WHOLE = 10**15 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """Text that matches `pattern`, described by `rule`.

    `improve` may find better words than the rule for text that does not match. Numbers, truth values and dates are
    no text, unless `digits_too`: whole decimal numbers, which every YAML reads back as they were written.
    """

    pattern: str
    rule: str
    longest: int = 500
    digits_too: bool = False
    improve: Callable[[str], str | None] | None = None

    def read(self, node: Node, at: Place) -> str | None:
        """Return the text."""
        scalar = scalar_of(node, at, self.words())
        if scalar is None:
            return None
        if self.digits_too and scalar.kind is Kind.WHOLE and PLAIN_WHOLE.fullmatch(scalar.text):
            return scalar.text
        better = self.improve(scalar.text) if self.improve else None  # when quotes alone would not help
        return scalar.text if is_text(scalar, at, better=better) and self._fits(scalar, at) else None

    def _fits(self, scalar: Scalar, at: Place) -> bool:
        if len(scalar.text) > self.longest:
            at.complain(scalar.mark, f"longer than {self.longest} characters")
            return False
        if re.fullmatch(self.pattern, scalar.text):
            return True
        better = self.improve(scalar.text) if self.improve else None
        at.complain(scalar.mark, better or f"`{shown(scalar.text)}` is not {self.rule}")
        return False

    def schema(self) -> Schema:
        """Describe the text."""
        text: Schema = {"type": "string", "pattern": f"^(?:{self.pattern})$", "maxLength": self.longest}
        if not self.digits_too:
            return text
        return {"anyOf": [text, {"type": "integer", "minimum": -MOST_WHOLE, "maximum": MOST_WHOLE}]}

    def words(self) -> str:
        """Say the rule."""
        return self.rule


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of a few words. `meant` maps what people write instead to the word, or to a sentence with a space in it."""

    words_: tuple[str, ...]
    meant: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def read(self, node: Node, at: Place) -> str | None:
        """Return the word."""
        scalar = scalar_of(node, at, self.words())
        if scalar is None:
            return None
        if scalar.text in self.words_:
            return scalar.text if is_text(scalar, at) else None
        wrong = f"`{shown(scalar.text)}` is not {self.words()}" if scalar.text else "is empty"
        if scalar.kind is Kind.TRUTH:
            wrong = f"`{scalar.text}` without quotes is a truth value to YAML"
        said = scalar.text.strip().lower()
        guess = self.meant.get(said)
        if guess is None and scalar.kind is Kind.TEXT:
            guess = nearest(said, self.words_)
        if guess and " " in guess:
            wrong += f": {guess}"
        elif guess:
            wrong += (
                f"; write {quoted(guess)}"
                if scalar.kind is not Kind.TEXT
                else f"; did you mean {quoted(guess)}?"
            )
        elif scalar.kind is not Kind.TEXT:
            wrong += f"; write {self.words()}"
        at.complain(scalar.mark, wrong)
        return None

    def schema(self) -> Schema:
        """List the words."""
        return {"type": "string", "enum": list(self.words_)}

    def words(self) -> str:
        """List the words."""
        return " or ".join(quoted(word) for word in self.words_)


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """A whole number, `least` to `most`, in plain decimal."""

    least: int
    most: int
    improve: Callable[[str], str | None] | None = None

    def read(self, node: Node, at: Place) -> int | None:
        """Return the number."""
        scalar = scalar_of(node, at, self.words())
        if scalar is None:
            return None
        if scalar.kind is Kind.WHOLE and PLAIN_WHOLE.fullmatch(scalar.text):
            if self.least <= int(scalar.text) <= self.most:
                return int(scalar.text)
            better = self.improve(scalar.text) if self.improve else None
            at.complain(scalar.mark, better or f"must be {self.words()}, and is {scalar.text}")
            return None
        at.complain(scalar.mark, self._why(scalar))
        return None

    def _why(self, scalar: Scalar) -> str:
        if self.improve and (better := self.improve(scalar.text)):
            return better
        if scalar.kind is Kind.WHOLE:
            meant = _as_yaml_reads(scalar)
            known = f" (YAML 1.1 reads it as {meant})" if meant else ""
            return (
                f"`{shown(scalar.text)}` is written so that readers differ{known}: write it in plain decimal"
            )
        if not scalar.plain and PLAIN_WHOLE.fullmatch(scalar.text):
            return f"must be {self.words()}, without quotes"
        what = (
            f", and is {scalar.kind}" if scalar.kind is not Kind.TEXT else f", and is `{shown(scalar.text)}`"
        )
        return f"must be {self.words()}{what}"

    def schema(self) -> Schema:
        """Give the range."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def words(self) -> str:
        """Give the range."""
        return (
            str(self.least) if self.least == self.most else f"a whole number from {self.least} to {self.most}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """`true` or `false`; `yes`, `on` and their kin mean different things to different readers."""

    def read(self, node: Node, at: Place) -> bool | None:
        """Return the truth value."""
        scalar = scalar_of(node, at, self.words())
        if scalar is None:
            return None
        if scalar.plain and scalar.text in {"true", "false"}:
            return scalar.text == "true"
        at.complain(scalar.mark, f"must be {self.words()}, and is `{shown(scalar.text)}`")
        return None

    def schema(self) -> Schema:
        """Say boolean."""
        return {"type": "boolean"}

    def words(self) -> str:
        """Name both."""
        return "`true` or `false`"


_UNITS = MappingProxyType({"MiB": MIB, "GiB": 1024 * MIB, "TiB": 1024 * 1024 * MIB})


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """Bytes, written as text with a binary unit: `512 MiB`, `2 GiB`, `1 TiB`; not below `least` MiB."""

    least: int

    def read(self, node: Node, at: Place) -> int | None:
        """Return the bytes."""
        scalar = scalar_of(node, at, self.words())
        if scalar is None:
            return None
        if scalar.kind is Kind.TEXT and re.fullmatch(self._pattern(), scalar.text):
            number, unit = scalar.text[:-3].strip(), scalar.text[-3:]
            return int(number) * _UNITS[unit]
        at.complain(scalar.mark, self._why(scalar))
        return None

    def _why(self, scalar: Scalar) -> str:
        found = re.fullmatch(r"\s*([0-9]{1,9})(?:\.([0-9]{1,9}))?\s*([a-zA-Z]*)\s*", scalar.text)
        if found is None:
            return f"must be {self.words()}, and is `{shown(scalar.text)}`"
        whole, fraction, unit = found[1], found[2], found[3].lower()
        named = {"": "MiB", "m": "MiB", "mb": "MiB", "mib": "MiB", "g": "GiB", "gb": "GiB", "gib": "GiB"}
        named |= {"t": "TiB", "tb": "TiB", "tib": "TiB"}
        if unit not in named:
            return f"`{shown(scalar.text)}` has no unit known here; write {self.words()}"
        number, unit = int(whole), named[unit]
        if fraction is not None and unit != "MiB":
            smaller = {"GiB": "MiB", "TiB": "GiB"}[unit]
            number, unit = number * 1024 + int(float(f"0.{fraction}") * 1024), smaller
        if not re.fullmatch(self._pattern(), f"{number} {unit}"):
            return f"`{shown(scalar.text)}` is out of range; write {self.words()}"
        lacks = " has no unit" if not found[3] else " is not how sizes are written here"
        return f"`{shown(scalar.text)}`{lacks}; write `{number} {unit}`"

    def _pattern(self) -> str:
        mib = at_least(self.least, digits=7)
        gib = at_least(max(1, -(-self.least // 1024)), digits=5)
        return f"(?:{mib}) ?MiB|(?:{gib}) ?GiB|[1-9][0-9]{{0,1}} ?TiB"

    def schema(self) -> Schema:
        """Give the pattern: JSON Schema has no sizes."""
        return {"type": "string", "pattern": f"^(?:{self._pattern()})$"}

    def words(self) -> str:
        """Show how it is written."""
        least = f"{self.least // 1024} GiB" if self.least % 1024 == 0 else f"{self.least} MiB"
        return f"a size such as `4 GiB`, at least `{least}`"


def is_text(scalar: Scalar, at: Place, *, better: str | None = None) -> bool:
    """Tell whether a scalar is text to every YAML reader; if not, ask for quotes, or for what is `better`."""
    if scalar.kind is Kind.TEXT:
        return True
    if scalar.kind is Kind.NOTHING:
        what = f"`{scalar.text}` is nothing" if scalar.text else "is empty"
        at.complain(scalar.mark, f"{what}: give it a value, or remove the line")
        return False
    meant = _as_yaml_reads(scalar)
    what = str(scalar.kind)
    if meant and meant != scalar.text:
        what = f"the {'truth value' if scalar.kind is Kind.TRUTH else 'number'} {meant}"
    wanted = better or f"write {quoted(shown(scalar.text), always=True)}"
    at.complain(scalar.mark, f"`{shown(scalar.text)}` without quotes is {what} to YAML; {wanted}")
    return False


def nearest(word: str, known: Collection[str]) -> str | None:
    """Return the known name nearest to `word`, if any is near."""
    return next(iter(difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)), None)


def quoted(text: str, *, always: bool = False) -> str:
    """Return `text` as a person should write it: in backticks, or, where YAML needs them, in double quotes."""
    if always or text[:1].isdigit():
        return f'"{text}"'
    return f"`{text}`"


def at_least(number: int, *, digits: int) -> str:
    """Return a pattern for decimal numbers of up to `digits` digits, not below `number` (itself above 0)."""
    text = str(number)
    choices = [text]
    for place, digit in enumerate(text):
        if digit != "9":
            rest = len(text) - place - 1
            choices.append(f"{text[:place]}[{int(digit) + 1}-9]" + (f"[0-9]{{{rest}}}" if rest else ""))
    if digits > len(text):
        choices.append(f"[1-9][0-9]{{{len(text)},{digits - 1}}}")
    return "|".join(choices)


def scalar_of(node: Node, at: Place, wanted: str) -> Scalar | None:
    """Return `node` if it is a value that is still open to reading; else complain, once."""
    if not isinstance(node, Scalar):
        complain_of_shape(node, at, wanted)
        return None
    return None if node.kind is Kind.REFUSED else node


def complain_of_shape(node: Node, at: Place, wanted: str) -> None:
    if isinstance(node, Scalar):
        if node.kind is Kind.REFUSED:
            return
        if node.kind is Kind.NOTHING:
            is_text(node, at)
            return
        found = f"`{shown(node.text)}`"
    else:
        found = "a list" if isinstance(node, Listing) else "a mapping"
    at.complain(node.mark, f"must be {wanted}, and is {found}")


def _as_yaml_reads(scalar: Scalar) -> str:
    """Return what YAML 1.1 makes of a scalar, as text; "" when that cannot be said."""
    if len(scalar.text) > 40:
        return ""
    try:
        value = yaml.safe_load(scalar.text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # a number to YAML 1.2 only
        return ""
    return shown(str(value)) if isinstance(value, int | float) else ""
