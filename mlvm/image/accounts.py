"""Users and groups of the guest, with fixed ids.

dpkg gives ids in the order in which packages happen to be configured; a box must not depend on that. Debian's static
ids (0-99) come from base-passwd; everything a script or a sysusers.d file adds has its id here.
"""

from __future__ import annotations

from mlvm.image.tree import Tree
from mlvm.lock.accounts import GROUPS, USERS

PERSON = "mlvm"
PERSON_ID = 1000
#: The day (since 1970) on which no password was ever set: the image's own date, never the host's.
DAY = 20454


def write_accounts(tree: Tree) -> None:
    """Write passwd, group, shadow and gshadow: Debian's static ones, those of the packages, and `mlvm`.

    Nobody has a password: `mlvm` enters by key or through the agent, root through sudo.
    """
    passwd = tree.read("usr/share/base-passwd/passwd.master").replace(":*:", ":x:").splitlines()
    group = tree.read("usr/share/base-passwd/group.master").replace(":*:", ":x:").splitlines()
    known_users = {line.split(":")[0] for line in passwd}
    known_groups = {line.split(":")[0] for line in group}
    passwd += [
        f"{user.name}:x:{user.uid}:{user.gid}::{user.home}:/usr/sbin/nologin"
        for user in USERS
        if user.name not in known_users
    ]
    passwd.append(f"{PERSON}:x:{PERSON_ID}:{PERSON_ID}:mlvm:/home/{PERSON}:/bin/bash")
    group += [f"{name}:x:{gid}:" for name, gid in GROUPS.items() if name not in known_groups]
    group = [line + PERSON if line.startswith("sudo:") else line for line in group]
    group.append(f"{PERSON}:x:{PERSON_ID}:")
    names = [line.split(":")[0] for line in passwd]
    shadow = [f"{name}:{'*' if name != PERSON else '!*'}:{DAY}:0:99999:7:::" for name in names]
    gshadow = [f"{line.split(':')[0]}:*::{line.rsplit(':', 1)[1]}" for line in group]
    for path, lines, mode, owner in (
        ("etc/passwd", passwd, 0o644, 0),
        ("etc/group", group, 0o644, 0),
        ("etc/shadow", shadow, 0o640, 42),
        ("etc/gshadow", gshadow, 0o640, 42),
    ):
        text = "".join(f"{line}\n" for line in lines)
        tree.file(path, text, mode=mode, gid=owner)
        tree.file(path + "-", text, mode=mode, gid=owner)
    tree.folder(f"home/{PERSON}", mode=0o755, uid=PERSON_ID, gid=PERSON_ID)
    for name in (".bashrc", ".profile", ".bash_logout"):
        if f"etc/skel/{name}" in tree:
            tree.file(f"home/{PERSON}/{name}", tree.content(f"etc/skel/{name}"), uid=PERSON_ID, gid=PERSON_ID)
    tree.file(f"etc/sudoers.d/{PERSON}", f"{PERSON} ALL=(ALL:ALL) NOPASSWD: ALL\n", mode=0o440)
