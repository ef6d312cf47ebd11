"""What Vagrant says with `--machine-readable`: a line each, `time,target,kind,data...`, commas and line ends escaped.

What is no such line (a Ruby backtrace, a Vagrantfile that is no Ruby) is kept as it is: it is all that there is then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_COMMA = "%!(VAGRANT_COMMA)"
#: What stands before a line of a machine's.
_LABEL = re.compile(r"^(?:==>|   ) [^\s:]+: ?", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One line; `words` are what follows its kind."""

    target: str
    kind: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        """What it says to a person, without the machine's name."""
        return _LABEL.sub("", self.words[-1]) if self.words else ""


def parse(line: str) -> Said | None:
    """Return what a line says; None for one that is not Vagrant's."""
    time, *rest = line.rstrip("\r\n").split(",")
    if not time.isascii() or not time.isdigit() or len(rest) < 2:
        return None
    target, kind, *words = rest
    return Said(target=target, kind=kind, words=tuple(plain(word) for word in words))


def plain(word: str) -> str:
    """Undo the escapes of a word."""
    return word.replace(_COMMA, ",").replace("\\n", "\n").replace("\\r", "\r")


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why Vagrant failed: the class of its own errors (empty for others) and the text."""

    kind: str
    text: str


def failure(lines: Iterable[str]) -> Failure:
    """Return why a run failed, from all its lines: the error that ended it, else the last complaints, else all."""
    said: list[str] = []
    loose: list[str] = []
    for line in lines:
        found = parse(line)
        if found is None:
            loose.append(line.rstrip())
        elif found.kind == "error-exit" and len(found.words) >= 2:
            return Failure(kind=found.words[0], text=found.words[1])
        elif found.kind == "ui" and found.words and found.words[0] in {"error", "warn"}:
            said.append(found.text)
    return Failure(kind="", text="\n".join([*said, *without_backtrace(loose)]).strip())


def without_backtrace(lines: Iterable[str]) -> list[str]:
    """Return what a Ruby program said before it died, without where it was."""
    kept = []
    for line in lines:
        if re.match(r"\s*(?:\d+: )?from /", line):
            continue
        kept.append(re.sub(r"^/\S+\.rb:\d+:in `[^']*': ", "", line))
    return kept
