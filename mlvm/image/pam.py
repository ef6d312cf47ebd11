"""/etc/pam.d/common-*: what pam-auth-update writes for the profiles that packages ship.

The templates and profiles are libpam-runtime's own; this fills one into the other, as its Perl script would.
"""

from __future__ import annotations

import re

from mlvm.errors import BuildError
from mlvm.image.tree import Tree

TEMPLATES = "usr/share/pam"
PROFILES = "usr/share/pam-configs"
#: File, the kind of its modules in a profile, and the name of its variables in the template.
FILES = (
    ("common-account", "Account", "account"),
    ("common-auth", "Auth", "auth"),
    ("common-password", "Password", "password"),
    ("common-session", "Session", "session"),
    ("common-session-noninteractive", "Session", "session_nonint"),
)


def add_pam(tree: Tree) -> None:
    """Write the common files for every profile that is on by default. Does nothing without libpam-runtime."""
    profiles = [_profile(tree.read(path).decode()) for path in tree.children(PROFILES)]
    wanted = sorted(
        (one for one in profiles if one.get("Default") == "yes"),
        key=lambda one: (-int(one.get("Priority", "0")), one["Name"]),
    )
    for name, kind, variable in FILES:
        if f"{TEMPLATES}/{name}" in tree:
            usable = [
                one for one in wanted
                if not (name.endswith("noninteractive") and one.get("Session-Interactive-Only") == "yes")
            ]  # fmt: skip
            template = tree.read(f"{TEMPLATES}/{name}").decode()
            text = _filled(template, kind, variable, usable)
            if unknown := re.search(r"^\$\w+", text, re.MULTILINE):
                raise BuildError(f"`/{TEMPLATES}/{name}` has a variable we do not know: `{unknown[0]}`")
            tree.file(f"etc/pam.d/{name}", text)


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


def _filled(template: str, kind: str, variable: str, profiles: list[dict[str, str]]) -> str:
    """Return the template with its two blocks filled and pam-auth-update's own variables gone."""
    word = kind.lower()
    blocks = {
        place: [one for one in profiles if one.get(f"{kind}-Type") == place]
        for place in ("Primary", "Additional")
    }
    lines: dict[str, list[str]] = {"Primary": [], "Additional": []}
    for place, members in blocks.items():
        modules = [
            module
            for position, one in enumerate(members)
            for module in _modules(one, kind, first=position == 0)
        ]
        for index, module in enumerate(modules):
            jump = str(len(modules) - index)
            lines[place].append(f"{word}\t" + re.sub(r"=end\b", f"={jump}", module))
    if not lines["Primary"]:
        lines["Primary"] = [f"{word}\t[default=1]\t\t\tpam_permit.so"]
    text = template.replace(f"${variable}_primary", "\n".join(lines["Primary"]))
    additional = "\n".join(lines["Additional"])
    if not additional:
        return text.replace(f"${variable}_additional\n", "")
    return text.replace(f"${variable}_additional", additional)


def _modules(profile: dict[str, str], kind: str, *, first: bool) -> list[str]:
    """Return a profile's lines for `kind`: the first of a block has its own, as it asks for the password."""
    initial = profile.get(f"{kind}-Initial") if first else None
    return (initial or profile.get(kind, "")).splitlines()
