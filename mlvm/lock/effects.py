"""Find in maintainer scripts what they would do to a system beyond unpacking files.

A reader of shell, not a shell: words are cut as sh cuts them, plain assignments are followed, and every command of a
known few is reported wherever it stands, in whatever branch. It may report too much (a branch never taken on a fresh
system); it must not overlook. Files for systemd-sysusers are read too: they add accounts without any script.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from mlvm.lock.deb import Deb, Kind

#: The scripts that run when a package is installed on a fresh system.
INSTALLING = ("preinst", "postinst")
_ASSIGNMENT = re.compile(
    r"^\s*(?:local |readonly |export )?([A-Za-z_]\w*)=([\"']?)([^\"'`$\s;&|()]*)\2\s*$", re.MULTILINE
)
_COMMENT = re.compile(r"(?m)^\s*#.*$|\s#\s.*$")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_SEPARATORS = frozenset(
    (
        ";",
        ";;",
        "&",
        "&&",
        "|",
        "||",
        "(",
        ")",
        "`",
        "{",
        "}",
        "!",
        "<",
        ">",
        ">>",
        "<<",
        "then",
        "do",
        "else",
        "elif",
        "if",
        "while",
        "fi",
        "done",
    )
)
#: A command named after one of these is looked for, not run.
_LOOKING = frozenset({"-v", "-x", "which", "type", "hash", "-e", "-f", "--retry", "invoke-rc.d"})


class Effect(StrEnum):
    """What a script does; the text goes before the subject in a complaint."""

    USER = "adds user"
    GROUP = "adds group"
    MEMBER = "changes account"
    ALTERNATIVE = "registers alternative"
    DIVERSION = "diverts"
    OVERRIDE = "overrides the owner of"
    UNIT = "enables unit"
    CONFIGURATION = "lets ucf write"
    CAPABILITY = "sets capabilities of"
    INIT_SCRIPT = "registers init script"
    TRIGGER = "answers to trigger"


@dataclass(frozen=True, order=True, slots=True)
class Found:
    """One effect and what it is done to."""

    effect: Effect
    subject: str

    def __str__(self) -> str:
        return f"{self.effect} `{self.subject}`"


def effects_of(deb: Deb) -> frozenset[Found]:
    """Return every effect that installing `deb` would have beyond its files."""
    found: set[Found] = set()
    for name in INSTALLING:
        if script := deb.scripts.get(name):
            found.update(effects_in(script))
    for entry in deb.entries:
        if entry.kind is Kind.FILE and re.fullmatch(r"usr/lib/sysusers\.d/[^/]+\.conf", entry.path):
            found.update(_declared(entry.data.decode(errors="replace")))
    for line in deb.control.get("triggers", b"").decode(errors="replace").splitlines():
        match line.split("#")[0].split():
            case [directive, name] if directive.startswith("interest"):
                found.add(Found(Effect.TRIGGER, name))
    return frozenset(found)


def effects_in(script: str) -> set[Found]:
    """Return the effects of one script."""
    text = _COMMENT.sub("", script.replace("\\\n", " "))
    values = {match[1]: match[3] for match in _ASSIGNMENT.finditer(text)}
    text = _VARIABLE.sub(lambda match: values.get(match[1] or match[2], match[0]), text)
    found: set[Found] = set()
    for command in _commands(text):
        for position, word in enumerate(command):
            reader = _READERS.get(word.rpartition("/")[2])
            if reader and (position == 0 or command[position - 1] not in _LOOKING):
                found.update(reader(command[position:]))
                break
    return found


def _commands(text: str) -> Iterator[list[str]]:
    """Yield the simple commands of a script, each a list of words without quotes."""
    for line in text.splitlines():
        try:
            lexer = shlex.shlex(line.replace("`", " ` "), posix=True, punctuation_chars=True)
            lexer.commenters = ""
            lexer.wordchars += "$@:+,%^!{}[]`"
            words = list(lexer)
        except ValueError:  # a quote that ends on another line
            words = re.sub(r"([;&|()`])", r" \1 ", line).replace('"', " ").replace("'", " ").split()
        command: list[str] = []
        for word in words:
            if word in _SEPARATORS or not word.strip(";&|()<>`"):
                if command:
                    yield command
                command = []
            else:
                command.append(word)
        if command:
            yield command


def _positional(words: Sequence[str], with_value: frozenset[str]) -> list[str]:
    """Return the arguments that are neither options nor options' values."""
    found = []
    skip = False
    for word in words[1:]:
        if skip:
            skip = False
        elif word.startswith("-") and len(word) > 1:
            skip = word in with_value
        elif word not in {"/dev/null", "2", "1", "]"}:
            found.append(word)
    return found


_ADDUSER_VALUES = frozenset(
    (
        "--home",
        "--shell",
        "--gecos",
        "--comment",
        "--uid",
        "--gid",
        "--ingroup",
        "--firstuid",
        "--lastuid",
        "--firstgid",
        "--lastgid",
        "--conf",
        "--prefix",
        "--root",
        "--base-dir",
        "--home-dir",
        "--groups",
        "--skel",
        "--expiredate",
        "--inactive",
        "--key",
        "--password",
        "-d",
        "-s",
        "-c",
        "-u",
        "-g",
        "-G",
        "-b",
        "-k",
        "-K",
        "-e",
        "-f",
        "-p",
        "-R",
        "-P",
    )
)


def _adduser(words: Sequence[str]) -> Iterator[Found]:
    names = _positional(words, _ADDUSER_VALUES)
    if not names:
        return
    if len(names) > 1:
        yield Found(Effect.MEMBER, f"{names[0]} {names[1]}")
        return
    if "--group" in words and "--system" not in words:
        yield Found(Effect.GROUP, names[0])
        return
    yield Found(Effect.USER, names[0])
    if "--group" in words or "-U" in words or "--user-group" in words:
        yield Found(Effect.GROUP, names[0])


def _addgroup(words: Sequence[str]) -> Iterator[Found]:
    names = _positional(words, _ADDUSER_VALUES)
    if len(names) > 1:
        yield Found(Effect.MEMBER, f"{names[0]} {names[1]}")
    elif names:
        yield Found(Effect.GROUP, names[0])


def _usermod(words: Sequence[str]) -> Iterator[Found]:
    if names := _positional(words, _ADDUSER_VALUES):
        yield Found(Effect.MEMBER, names[-1])


def _alternative(words: Sequence[str]) -> Iterator[Found]:
    for option, offset in (("--install", 2), ("--set", 1)):
        if option in words:
            at = list(words).index(option) + offset
            yield Found(Effect.ALTERNATIVE, words[at] if at < len(words) else "?")


def _diversion(words: Sequence[str]) -> Iterator[Found]:
    if set(words) & {"--remove", "--list", "--listpackage", "--truename"}:
        return
    names = _positional(words, frozenset({"--divert", "--package", "--admindir", "--instdir", "--root"}))
    yield Found(Effect.DIVERSION, names[-1] if names else "?")


def _override(words: Sequence[str]) -> Iterator[Found]:
    if "--add" in words:
        yield Found(Effect.OVERRIDE, words[-1])


def _unit(words: Sequence[str]) -> Iterator[Found]:
    if "enable" in words:
        for name in words[list(words).index("enable") + 1 :]:
            if re.search(r"\.(service|socket|timer|target|path|mount)$|\$", name):
                yield Found(Effect.UNIT, name)


def _ucf(words: Sequence[str]) -> Iterator[Found]:
    if set(words) & {"--purge", "-p"}:
        return
    if names := _positional(words, frozenset({"--src-dir", "--state-dir", "--sum-file", "-s"})):
        yield Found(Effect.CONFIGURATION, names[-1])


def _capability(words: Sequence[str]) -> Iterator[Found]:
    if names := _positional(words, frozenset()):
        yield Found(Effect.CAPABILITY, names[-1])


def _init_script(words: Sequence[str]) -> Iterator[Found]:
    if set(words) & {"defaults", "enable", "start"}:
        yield Found(Effect.INIT_SCRIPT, _positional(words, frozenset())[0])


def _ownership(words: Sequence[str]) -> Iterator[Found]:
    owner, *paths = _positional(words, frozenset()) or [""]
    if not re.fullmatch(r"(root|0)([:.](root|0)?)?", owner):
        yield from _overridden(paths)


def _mode(words: Sequence[str]) -> Iterator[Found]:
    mode, *paths = _positional(words, frozenset()) or [""]
    if not re.fullmatch(r"0?(644|755)|[ugoa]*\+[rwxX]+", mode):
        yield from _overridden(paths)


def _overridden(paths: Sequence[str]) -> Iterator[Found]:
    return (Found(Effect.OVERRIDE, path) for path in paths if path[:1] in {"/", "$"})


_READERS = {
    "adduser": _adduser,
    "useradd": _adduser,
    "addgroup": _addgroup,
    "groupadd": _addgroup,
    "usermod": _usermod,
    "groupmod": _usermod,
    "gpasswd": _usermod,
    "update-alternatives": _alternative,
    "dpkg-divert": _diversion,
    "dpkg-statoverride": _override,
    "deb-systemd-helper": _unit,
    "systemctl": _unit,
    "ucf": _ucf,
    "setcap": _capability,
    "update-rc.d": _init_script,
    "chown": _ownership,
    "chgrp": _ownership,
    "chmod": _mode,
}


def _declared(text: str) -> Iterator[Found]:
    """Return what a file for systemd-sysusers declares."""
    for line in text.splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()
        match words:
            case [("u" | "u!"), name, *_]:
                yield Found(Effect.USER, name)
            case ["g", name, *_]:
                yield Found(Effect.GROUP, name)
            case ["m", name, group, *_]:
                yield Found(Effect.MEMBER, f"{name} {group}")
