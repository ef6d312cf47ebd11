"""What maintainer scripts do that the image builder does too, release by release; everything else is refused.

The builder runs no script. It makes the same accounts, alternatives, diversions and units itself, from the tables
here, with ids that do not hang on the order of installation. A package that does anything the tables do not hold
would be half installed, so a lock with it is refused: `unknown_effects` says why, in words to report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlvm.errors import ResolveError
from mlvm.lock import deb
from mlvm.lock.deb import Deb
from mlvm.lock.effects import Effect, Found, effects_of

NOLOGIN = "/usr/sbin/nologin"


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """A system account to add to those of base-passwd."""

    name: str
    uid: int
    gid: int
    comment: str = ""
    home: str = "/nonexistent"
    shell: str = NOLOGIN


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """A name with several programs behind it: `candidates` are (program, priority); `slaves` follow the best.

    Each slave is (name, link, target); manual pages are left out, as they are from the image.
    """

    name: str
    link: str
    candidates: tuple[tuple[str, int], ...]
    slaves: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """A file whose owner or mode a script changes; `recorded` when dpkg's own table shall know."""

    path: str
    user: str
    group: str
    mode: int
    recorded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Scripts:
    """All that the builder does in place of a release's scripts.

    `units` holds every unit that scripts enable: True when the image enables it too. `seen` lists effects that need
    no table of their own, with the reason. `folders`, `links` and `texts` are what only this release's scripts make.
    """

    users: tuple[User, ...]
    groups: Mapping[str, int]
    alternatives: tuple[Alternative, ...]
    overrides: tuple[Override, ...]
    diversions: tuple[tuple[str, str, str], ...]
    units: Mapping[str, bool]
    seen: Mapping[Found, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)


_USERS = (
    User(name="_apt", uid=42, gid=65534),
    User(name="messagebus", uid=100, gid=101),
    User(name="sshd", uid=101, gid=65534, home="/run/sshd"),
    User(name="systemd-network", uid=998, gid=998, comment="systemd Network Management", home="/"),
)
#: trixie declares these to systemd-sysusers, with comments.
_TRIXIE_COMMENTS = {"messagebus": "System Message Bus", "sshd": "sshd user"}
_GROUPS = {
    "messagebus": 101,
    "_ssh": 102,
    "input": 103,
    "sgx": 104,
    "kvm": 105,
    "render": 106,
    "systemd-network": 998,
    "systemd-journal": 999,
}
_ALTERNATIVES = (
    Alternative(
        name="awk",
        link="/usr/bin/awk",
        candidates=(("/usr/bin/mawk", 5),),
        slaves=(("nawk", "/usr/bin/nawk", "/usr/bin/mawk"),),
    ),
    Alternative(name="pager", link="/usr/bin/pager", candidates=(("/bin/more", 50), ("/usr/bin/less", 77))),
    Alternative(name="rmt", link="/usr/sbin/rmt", candidates=(("/usr/sbin/rmt-tar", 50),)),
    Alternative(name="which", link="/usr/bin/which", candidates=(("/usr/bin/which.debianutils", 0),)),
)
_OVERRIDES = (
    Override(
        path="usr/lib/dbus-1.0/dbus-daemon-launch-helper",
        user="root",
        group="messagebus",
        mode=0o4754,
        recorded=True,
    ),
    Override(path="usr/bin/ssh-agent", user="root", group="_ssh", mode=0o2755),
    Override(path="etc/sudoers", user="root", group="root", mode=0o440),
    Override(path="var/cache/apt/archives/partial", user="_apt", group="root", mode=0o700),
    Override(path="var/lib/apt/lists/partial", user="_apt", group="root", mode=0o700),
)
#: Secrets of units: systemd's script lets systemd-tmpfiles close what the package ships open.
_TRIXIE_OVERRIDES = tuple(
    Override(path=f"etc/{name}", user="root", group="root", mode=0o700)
    for name in ("credstore", "credstore.encrypted")
)
#: (diverted path, where it went, by which package), as the script of bookworm's dash leaves them.
_BOOKWORM_DIVERSIONS = (
    ("/usr/share/man/man1/sh.1.gz", "/usr/share/man/man1/sh.distrib.1.gz", "dash"),
    ("/bin/sh", "/bin/sh.distrib", "dash"),
)
#: Left by trixie's move of libraries to /usr: the diversion points where no file is, and stays.
_TRIXIE_DIVERSIONS = (
    *(
        (f"/lib/x86_64-linux-gnu/{name}", f"/lib/x86_64-linux-gnu/{name}.usr-is-merged", package)
        for name, package in (
            ("libhistory.so.8", "libreadline8t64"),
            ("libhistory.so.8.2", "libreadline8t64"),
            ("libreadline.so.8", "libreadline8t64"),
            ("libreadline.so.8.2", "libreadline8t64"),
            ("libtirpc.so.3", "libtirpc3t64"),
            ("libtirpc.so.3.0.0", "libtirpc3t64"),
        )
    ),
    ("/lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2.usr-is-merged", "libc6"),
    ("/lib32", "/.lib32.usr-is-merged", "base-files"),
    ("/libo32", "/.libo32.usr-is-merged", "base-files"),
    ("/libx32", "/.libx32.usr-is-merged", "base-files"),
)
#: The image keeps what a short-lived guest needs: no timer that wakes it, no sshd before its key is there.
_UNITS = {
    "apt-daily-upgrade.timer": False,
    "apt-daily.timer": False,
    "dpkg-db-backup.timer": False,
    "fstrim.timer": False,
    "getty@tty1.service": False,
    "remote-fs.target": True,
    "rsync.service": False,
    "ssh.service": False,
    "ssh.socket": False,
    "systemd-pstore.service": False,
}
#: Trigger -> what the builder makes of what it is about, or why nothing.
_TRIGGERS = {
    "ldconfig": "the cache of libraries is written",
    "libc-upgrade": "systemd starts itself again, in a running system",
    "update-ca-certificates": "the bundle is written",
    "update-ca-certificates-fresh": "the bundle is written",
    "/etc/dbus-1/system.d": "dbus reads it again, in a running system",
    "/lib/udev/hwdb.d": "a virtual machine has no hardware to name",
    "/usr/lib/binfmt.d": "systemd-binfmt reads it at boot, and is masked",
    "/usr/lib/sysctl.d": "systemd-sysctl reads it at boot",
    "/usr/lib/systemd/catalog": "explanations of messages are left out",
    "/usr/lib/udev/hwdb.d": "a virtual machine has no hardware to name",
    "/usr/share/dbus-1/system-services": "dbus reads it again, in a running system",
    "/usr/share/dbus-1/system.d": "dbus reads it again, in a running system",
    "/usr/share/debianutils/shells.d": "/etc/shells is written",
    **{f"/usr/{name}": "base-files makes a link to a folder that nothing is in"
       for name in ("lib32", "libo32", "libx32")},
}  # fmt: skip
#: All of these have a unit, too, and systemd takes that.
_INIT_SCRIPTS = ("dbus", "hwclock.sh", "kmod", "procps", "rsync", "ssh", "sudo", "udev")
_SEEN = {
    **{Found(Effect.TRIGGER, name): why for name, why in _TRIGGERS.items()},
    **{Found(Effect.INIT_SCRIPT, name): "it has a unit" for name in _INIT_SCRIPTS},
    Found(Effect.MEMBER, "ssh"): "openssh-client gives a group of older releases its new name",
    Found(Effect.OVERRIDE, "$DPKG_ROOT$1"): "base-files' folders, which the builder makes",
    Found(Effect.OVERRIDE, "$DPKG_ROOT/$1"): "base-files' folders, which the builder makes",
    **{
        Found(Effect.OVERRIDE, f"/usr/local/lib/python{python}{below}"): "of group staff only where asked for"
        for python in ("3.9", "3.11", "3.13")
        for below in ("", "/dist-packages")
    },
    Found(Effect.ALTERNATIVE, "builtins.7.gz"): "a manual page, and those are left out",
    Found(Effect.ALTERNATIVE, "$BINNAME"): "procps, which only removes what older releases registered",
    Found(Effect.CAPABILITY, "/bin/ip"): "only when debconf was told so, which nobody does",
    Found(Effect.DIVERSION, "$dfile"): "dash's, for /bin/sh and its manual page: they are in `diversions`",
    Found(Effect.CONFIGURATION, "$new_config"): "sshd_config, copied from /usr/share/openssh",
}

_BOOKWORM = Scripts(
    users=_USERS,
    groups=_GROUPS,
    alternatives=_ALTERNATIVES,
    overrides=_OVERRIDES,
    diversions=_BOOKWORM_DIVERSIONS,
    units=_UNITS,
    seen=_SEEN,
    texts={"etc/timezone": "Etc/UTC\n", "var/log/faillog": ""},
)
_MERGE_GUARD = "guards files while /usr is merged: those that stay are in `diversions`"
_TRIXIE = replace(
    _BOOKWORM,
    users=tuple(replace(user, comment=_TRIXIE_COMMENTS.get(user.name, user.comment)) for user in _USERS),
    groups={**_GROUPS, "clock": 107},
    diversions=_TRIXIE_DIVERSIONS,
    overrides=(*_OVERRIDES, *_TRIXIE_OVERRIDES),
    units={**_UNITS, "ssh-agent.socket": False, "sshd-keygen.service": False},
    seen={
        **_SEEN,
        Found(Effect.DIVERSION, "/$d"): _MERGE_GUARD,
        Found(Effect.DIVERSION, "/lib64"): _MERGE_GUARD,
        Found(Effect.DIVERSION, "/lib/x86_64-linux-gnu/$lib"): _MERGE_GUARD,
        Found(Effect.DIVERSION, "/lib/x86_64-linux-gnu/$file"): _MERGE_GUARD,
        Found(Effect.DIVERSION, "/usr/bin/$tool"): _MERGE_GUARD,
        Found(Effect.DIVERSION, "/usr/sbin/sshd"): _MERGE_GUARD,
    },
    folders=("usr/local/libexec",),
    links={"var/lib/wtmpdb/wtmp.db": "../../log/wtmp.db"},
    texts={"var/lib/dpkg/arch-native": "amd64\n"},
)
_OLD_USERS = (
    ("systemd-resolve", 997, "systemd Resolver", "/run/systemd"),
    ("systemd-timesync", 996, "systemd Time Synchronization", "/"),
    ("systemd-coredump", 995, "systemd Core Dumper", "/"),
)
_OLD_LOGS = "files for who logs in, which the builder makes"
_BULLSEYE = replace(
    _BOOKWORM,
    users=(
        *_USERS,
        *(User(name=name, uid=uid, gid=uid, comment=text, home=home) for name, uid, text, home in _OLD_USERS),
    ),
    groups={
        **{{"_ssh": "ssh"}.get(name, name): gid for name, gid in _GROUPS.items()},
        **{name: uid for name, uid, _, _ in _OLD_USERS},
    },
    overrides=tuple(
        replace(override, group={"_ssh": "ssh"}.get(override.group, override.group)) for override in _OVERRIDES
    ),
    units={**_UNITS, "tmp.mount": False},
    seen={
        **_SEEN,
        Found(Effect.OVERRIDE, "$1"): "base-files' folders, which the builder makes",
        Found(Effect.OVERRIDE, "/$1"): "base-files' folders, which the builder makes",
        **{Found(Effect.OVERRIDE, f"/var/{name}"): _OLD_LOGS
           for name in ("log/btmp", "log/lastlog", "log/wtmp", "run/utmp")},
        Found(Effect.OVERRIDE, "$log"): _OLD_LOGS,
        Found(Effect.ALTERNATIVE, "$cmd"): "openssh-client, which only removes what older releases registered",
        Found(Effect.DIVERSION, "bash"): "bash asks whether dash's diversion of /bin/sh is there",
    },
)  # fmt: skip

#: Release -> what the builder does in place of its scripts.
RELEASES: Mapping[str, Scripts] = {"bullseye": _BULLSEYE, "bookworm": _BOOKWORM, "trixie": _TRIXIE}


def scripts_of(release: str) -> Scripts:
    """Return the table of `release`. Raises ResolveError when there is none."""
    try:
        return RELEASES[release]
    except KeyError:
        raise ResolveError(
            f"mlvm has no table of what Debian {release}'s scripts do",
            hint=f"use one of {', '.join(sorted(RELEASES))}",
        ) from None


def unknown_effects(release: str, debs: Mapping[str, Path]) -> list[str]:
    """Return a complaint for each thing that a package's scripts do and the builder does not; sorted.

    `debs` are the packages of the system by name, as files. Raises BuildError for a file that is no package.
    """
    known = scripts_of(release)
    packages = [deb.read(path) for _, path in sorted(debs.items())]
    covered = set(known.seen) | _covered(known) | {found for one in packages for found in _masters(one)}
    return [
        f"{package.name}: {found}" for package in packages for found in sorted(effects_of(package) - covered)
    ]


def _covered(known: Scripts) -> set[Found]:
    return {
        *(Found(Effect.USER, user.name) for user in known.users),
        *(Found(Effect.GROUP, name) for name in known.groups),
        *(Found(Effect.ALTERNATIVE, alternative.name) for alternative in known.alternatives),
        *(Found(Effect.OVERRIDE, f"/{override.path}") for override in known.overrides),
        *(Found(Effect.DIVERSION, path) for path, _, _ in known.diversions),
        *(Found(Effect.UNIT, name) for name in known.units),
    }


def _masters(package: Deb) -> set[Found]:
    """Return the accounts that base-passwd brings as files, which the builder copies."""
    found = set()
    for entry in package.entries:
        if entry.path in {"usr/share/base-passwd/passwd.master", "usr/share/base-passwd/group.master"}:
            effect = Effect.USER if "passwd.master" in entry.path else Effect.GROUP
            names = (line.partition(":")[0] for line in entry.data.decode().splitlines())
            found |= {Found(effect, name) for name in names}
    return found
