"""Values as Ruby literals, for Vagrantfiles: the only way by which a value of somebody's gets into one.

A Ruby text in double quotes runs what stands in `#{...}`; so everything but plain letters is written as an escape, and
no value can end the literal, begin an interpolation or a comment, or break a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_PLAIN = re.compile(r"[A-Za-z0-9 _.,:/@+=~()\[\]<>*?!%&;^|-]")


def literal(value: object) -> str:
    """Return a Ruby literal of a text, number, truth value, nothing, list or mapping. Raises TypeError for others."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        return '"' + "".join(_letter(letter) for letter in value) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)} => {literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return "[" + ", ".join(literal(one) for one in value) + "]"
    raise TypeError(f"{type(value).__name__} has no Ruby literal here")


def _letter(letter: str) -> str:
    if _PLAIN.fullmatch(letter):
        return letter
    if 0xD800 <= ord(letter) <= 0xDFFF:
        raise TypeError("a text with half a letter has no Ruby literal")
    return f"\\u{{{ord(letter):x}}}"
