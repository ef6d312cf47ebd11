"""Reads a lock's tables strictly: each value in the form it must have, every complaint with its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple


class Form(NamedTuple):
    """What a text must look like, for the reader and in words."""

    pattern: re.Pattern[str]
    words: str


ANY = Form(re.compile(r"[^\x00-\x1f\x7f]+"), "text in one line")
BOX_NAME = Form(re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"), "the name of a box")
PYTHON = Form(re.compile(r"3\.[0-9]{1,2}t?"), "a Python such as 3.11")
NUMBERS = Form(re.compile(r"[0-9]{1,8}(?:\.[0-9]{1,8}){0,4}"), "a version in numbers, such as 12.1")
DATE = Form(re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), "a date such as 2026-11-24")
SHA256 = Form(re.compile(r"[0-9a-f]{64}"), "a SHA-256 digest of 64 hexadecimal digits")
URL = Form(re.compile(r"(?:https?|file)://[!-~]+"), "a URL of http, https or file")
TIMESTAMP = Form(re.compile(r"[0-9]{8}T[0-9]{6}Z"), "a moment such as 20261123T160000Z")
WORD = Form(re.compile(r"[a-z0-9][a-z0-9+.-]*"), "a name as Debian writes them")
PUBLISHED = Form(
    re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"), "a box such as team/housing"
)
PROVIDER = Form(re.compile(r"[a-z0-9][a-z0-9_]*"), "one of Vagrant's providers")
APT = Form(re.compile(r"[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+:~-]+)?"), "a Debian package such as git")
PROJECT_NAME = Form(re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"), "a normalised name such as scikit-learn")
ENTRY_NAME = Form(re.compile(r"(?!\.\.?$)[A-Za-z0-9_.+-]+"), "a name such as console_scripts")
ENTRY = Form(
    re.compile(r"[A-Za-z_][\w.]*(?::[A-Za-z_][\w.]*)?(?: *\[[\w, -]*\])?"),
    "an object such as package.module:main",
)
DEB_VERSION = Form(re.compile(r"(?:[0-9]+:)?[0-9A-Za-z][0-9A-Za-z.+~-]*"), "a Debian version")
#: Stays below its archive: no way up, no absolute path, nothing that a URL would read in another way.
POOL_PATH = Form(re.compile(r"pool(?:/(?!\.)[A-Za-z0-9+._~-]+)+\.deb"), "a path in a Debian pool")


class Table:
    """One table of the document: gives values of the wanted kind, or complains and gives an empty one.

    A key that nobody asked for by `close` is unknown, so there is no second list of keys to keep right.
    """

    def __init__(self, content: Mapping[str, Any], path: str, complaints: list[str]) -> None:
        self.content = content
        self.path = path
        self.complaints = complaints
        self.asked: set[str] = set()

    def get(self, key: str) -> Any:
        self.asked.add(key)
        return self.content.get(key)

    def complain(self, key: str, wanted: str, found: object) -> None:
        self.complaints.append(f"{self.path}{key}: {wanted} is wanted, found {shown(found)}")

    def text(self, key: str, form: Form = ANY) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not form.pattern.fullmatch(value):
            self.complain(key, form.words, value)
            return ""
        return value

    def count(self, key: str) -> int:
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            self.complain(key, "a whole number", value)
            return 0
        return value

    def texts(self, key: str, form: Form = ANY) -> tuple[str, ...]:
        value = self.get(key)
        if not isinstance(value, list) or not all(
            isinstance(text, str) and form.pattern.fullmatch(text) for text in value
        ):
            self.complain(key, f"an array, each {form.words},", value)
            return ()
        return tuple(value)

    def table(self, key: str) -> Table:
        value = self.get(key)
        if not isinstance(value, dict):
            self.complain(key, "a table", value)
            return Table({}, "", [])  # one complaint is enough: what it would hold is not missed
        return Table(value, f"{self.path}{key}.", self.complaints)

    def tables(self, key: str) -> list[Table]:
        """The tables of an array, whose names must be sorted and there once."""
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            self.complain(key, "an array of tables", value)
            return []
        names = [str(row.get("name")) for row in value]
        for before, after in pairwise(names):
            if before >= after:
                problem = "is there twice" if before == after else f"must stand before `{before}`"
                self.complaints.append(f"{self.path}{key}: `{after}` {problem}")
        return [Table(row, f"{self.path}{key}[{index}].", self.complaints) for index, row in enumerate(value)]

    def close(self) -> None:
        self.complaints += [
            f"{self.path}{key}: unknown key" for key in sorted(self.content.keys() - self.asked)
        ]


def shown(value: object) -> str:
    """Return what was found, for a complaint."""
    if value is None:
        return "nothing"
    if isinstance(value, dict | list):
        return f"a{' table' if isinstance(value, dict) else 'n array'}"
    return repr(value)[:60]
