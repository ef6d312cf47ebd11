"""Fixed ids of the users and groups that packages add to Debian's static ones.

Read by the check of maintainer scripts (is everything a script adds known?) and by the image builder (which ids?).
Ids of 998 and 999 are those Debian's systemd itself gets on a fresh system; the others follow the order of adding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemUser:
    """A user no person logs in as."""

    name: str
    uid: int
    gid: int
    home: str


USERS = (
    SystemUser(name="_apt", uid=42, gid=65534, home="/nonexistent"),
    SystemUser(name="messagebus", uid=100, gid=101, home="/nonexistent"),
    SystemUser(name="sshd", uid=101, gid=65534, home="/run/sshd"),
    SystemUser(name="systemd-network", uid=998, gid=998, home="/"),
)

GROUPS: Mapping[str, int] = MappingProxyType(
    {
        "messagebus": 101,
        "_ssh": 102,
        "crontab": 103,
        "input": 104,
        "kvm": 105,
        "render": 106,
        "sgx": 107,
        "clock": 108,
        "systemd-network": 998,
        "systemd-journal": 999,
    }
)

#: Every name outside base-passwd's own lists that a box may have.
ADDED = frozenset(GROUPS) | {user.name for user in USERS}
