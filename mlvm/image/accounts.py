"""Users and groups of the guest: base-passwd's own, those that scripts would add, and the person's.

Every id is fixed. adduser would give out the next free one, in the order of installation, and one more package would
renumber files of all others. Nobody has a password: the agent and SSH keys are the ways in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mlvm.image.tree import SOURCE_DATE, Tree
from mlvm.lock.scripts import Scripts, User

#: The person's account.
USER = User(name="mlvm", uid=1000, gid=1000, comment="mlvm", home="/home/mlvm", shell="/bin/bash")  # noqa: S604
#: Groups the person is in: GPUs and their like belong to the last two.
USER_GROUPS = ("sudo", "video", "render")
_SHADOW_GROUP = 42
_DAY = SOURCE_DATE // 86400
_SKELETON = "etc/skel/"


@dataclass(slots=True)
class Accounts:
    """The lines of passwd and group, and how to find an id."""

    passwd: list[list[str]]
    group: list[list[str]]
    _uids: dict[str, int] = field(default_factory=dict)
    _gids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._uids = {line[0]: int(line[2]) for line in self.passwd}
        self._gids = {line[0]: int(line[2]) for line in self.group}

    def uid(self, user: str) -> int:
        """Return the id of `user`."""
        return self._uids[user]

    def gid(self, group: str) -> int:
        """Return the id of `group`."""
        return self._gids[group]


def accounts_of(tree: Tree, scripts: Scripts) -> Accounts:
    """Return the accounts: base-passwd's masters from `tree`, then the additions, each once."""
    passwd = _lines(tree.read("usr/share/base-passwd/passwd.master"))
    group = _lines(tree.read("usr/share/base-passwd/group.master"))
    users = {line[0] for line in passwd}
    groups = {line[0] for line in group}
    for user in (*scripts.users, USER):
        if user.name not in users:
            passwd.append([user.name, "x", str(user.uid), str(user.gid), user.comment, user.home, user.shell])
    for name, gid in (*scripts.groups.items(), (USER.name, USER.gid)):
        if name not in groups:
            group.append([name, "x", str(gid), ""])
    for line in passwd:
        line[1] = "x"
    for line in group:
        line[1] = "x"
        if line[0] in USER_GROUPS:
            line[3] = ",".join(filter(None, [line[3], USER.name]))
    return Accounts(passwd, group)


def add_accounts(tree: Tree, accounts: Accounts) -> None:
    """Write the four files, the person's home, and sudo's permission."""
    shadow = [[line[0], "*", str(_DAY), "0", "99999", "7", "", "", ""] for line in accounts.passwd]
    gshadow = [[line[0], "*", "", line[3]] for line in accounts.group]
    tree.file("etc/passwd", _text(accounts.passwd))
    tree.file("etc/group", _text(accounts.group))
    tree.file("etc/shadow", _text(shadow), mode=0o640, group=_SHADOW_GROUP)
    tree.file("etc/gshadow", _text(gshadow), mode=0o640, group=_SHADOW_GROUP)
    tree.file("etc/subuid", f"{USER.name}:100000:65536\n")
    tree.file("etc/subgid", f"{USER.name}:100000:65536\n")
    tree.file("etc/sudoers.d/mlvm", f"{USER.name} ALL=(ALL:ALL) NOPASSWD: ALL\n", mode=0o440)
    home = USER.home.lstrip("/")
    tree.folder(home, mode=0o750, owner=USER.uid, group=USER.gid)
    for path in tree.children(_SKELETON.rstrip("/")):
        tree.file(f"{home}/{path.removeprefix(_SKELETON)}", tree.read(path), owner=USER.uid, group=USER.gid)


def _lines(master: bytes) -> list[list[str]]:
    return [line.split(":") for line in master.decode().splitlines() if line]


def _text(lines: list[list[str]]) -> str:
    return "".join(":".join(line) + "\n" for line in lines)
