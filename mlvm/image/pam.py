"""/etc/pam.d/common-*: what pam-auth-update writes for the profiles that packages ship.

The templates and profiles are libpam-runtime's own; this fills one into the other, as its Perl script would. What it
remembers of that in /var/lib/pam is written too: without it, the next package with a profile that a person installs
would find files that look changed by hand, and leave them alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mlvm.errors import BuildError
from mlvm.image.tree import Tree

TEMPLATES = "usr/share/pam"
PROFILES = "usr/share/pam-configs"
MEMORY = "var/lib/pam"
#: File, the kind of its modules in a profile, and the name of its variables in the template.
FILES = (
    ("common-account", "Account", "account"),
    ("common-auth", "Auth", "auth"),
    ("common-password", "Password", "password"),
    ("common-session", "Session", "session"),
    ("common-session-noninteractive", "Session", "session_nonint"),
)
#: What stands in an empty primary block, so that there is something to jump over.
_NOTHING = "[default=1]\t\t\tpam_permit.so"
_MODULE = re.compile(r"((?:\[[^]]+\]|\w+)\s+\S+)\s*(.*)")


def add_pam(tree: Tree) -> None:
    """Write the common files for every profile that is on by default. Does nothing without libpam-runtime."""
    found = {
        path.rpartition("/")[2]: _profile(tree.read(path).decode())
        for path in reversed(tree.children(PROFILES))
    }
    profiles = dict(sorted(found.items(), key=lambda item: -int(item[1].get("Priority", "0"))))
    wanted = {key: one for key, one in profiles.items() if one.get("Default") == "yes"}
    for name, kind, variable in FILES:
        if f"{TEMPLATES}/{name}" in tree:
            usable = {
                key: one for key, one in wanted.items()
                if not (name.endswith("noninteractive") and one.get("Session-Interactive-Only") == "yes")
            }  # fmt: skip
            template = tree.read(f"{TEMPLATES}/{name}").decode()
            text = _filled(template, kind, variable, usable)
            if unknown := re.search(r"^\$\w+", text, re.MULTILINE):
                raise BuildError(f"`/{TEMPLATES}/{name}` has a variable we do not know: `{unknown[0]}`")
            tree.file(f"etc/pam.d/{name}", text)
            tree.file(f"{MEMORY}/{name.removeprefix('common-')}", _remembered(kind, usable))
    if profiles:
        tree.file(f"{MEMORY}/seen", "".join(f"{key}\n" for key in profiles))


def _profile(text: str) -> dict[str, str]:
    """Return a profile's fields; a block's lines are joined by line ends."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1] in {" ", "\t"}:
            fields[name] = "\n".join(filter(None, [fields[name], line.strip()]))
        elif ":" in line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


def _filled(template: str, kind: str, variable: str, profiles: Mapping[str, Mapping[str, str]]) -> str:
    """Return the template with its two blocks filled and pam-auth-update's own variables gone."""
    word = kind.lower()
    lines: dict[str, list[str]] = {}
    for place, last in (
        ("Primary", 0),
        ("Additional", 1),
    ):  # from the last additional one there is no way to jump
        modules = [module for _, block in _blocks(kind, place, profiles) for module in block.splitlines()]
        lines[place] = [
            f"{word}\t" + _module(module, str(len(modules) - last - index))
            for index, module in enumerate(modules)
        ]
    if not lines["Primary"]:
        lines["Primary"] = [f"{word}\t{_NOTHING}"]
    text = template.replace(f"${variable}_primary", "\n".join(lines["Primary"]))
    additional = "\n".join(lines["Additional"])
    if not additional:
        return text.replace(f"${variable}_additional\n", "")
    return text.replace(f"${variable}_additional", additional)


def _module(line: str, jump: str) -> str:
    """Return a module's line with its jump counted, spaced as pam-auth-update spaces it."""
    match = _MODULE.fullmatch(line)
    if match is None:
        raise BuildError(f"a profile in `/{PROFILES}` has a line we do not understand: `{line}`")
    return re.sub(r"=end\b", f"={jump}", match[1]) + " " + " ".join(match[2].split())


def _remembered(kind: str, profiles: Mapping[str, Mapping[str, str]]) -> str:
    """Return the lines as the profiles have them, under the profiles' names."""
    blocks = _blocks(kind, "Primary", profiles) or [("null", _NOTHING)]
    blocks += _blocks(kind, "Additional", profiles)
    return "".join(f"Module: {key}\n{block}\n" for key, block in blocks if block)


def _blocks(kind: str, place: str, profiles: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return each profile's lines for a block: the first of a block has its own, as it asks for the password."""
    members = [(key, one) for key, one in profiles.items() if one.get(f"{kind}-Type") == place]
    return [
        (key, (one.get(f"{kind}-Initial") if position == 0 else None) or one.get(kind, ""))
        for position, (key, one) in enumerate(members)
    ]
