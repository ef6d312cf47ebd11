"""What the maintainer scripts of a box's packages do, held against what the image builder knows how to do.

Images are made without running scripts, so every effect that a script or a sysusers.d file would have must either be
reproduced by the builder (`mlvm.image.system`) or be left out on purpose. `KNOWN` is that list, and anything outside
it stops the lock: a security update that suddenly adds a user must not give a guest without that user.

An effect is a command and what it acts on ("adduser sshd"), found by reading the script's text. Commands that only
matter on upgrades or removals, or that act on files of the package itself, are not effects; the golden test, which
compares whole trees with what dpkg makes of them, keeps this reading honest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mlvm.lock.accounts import ADDED
from mlvm.lock.deb import read_control, read_data

#: Effects that the builder reproduces, by package. Accounts have a table of their own (`mlvm.lock.accounts`).
REPRODUCED: Mapping[str, frozenset[str]] = {
    "base-passwd": frozenset({"update-passwd"}),
    "ca-certificates": frozenset({"update-ca-certificates"}),
    "dbus": frozenset({"dpkg-statoverride $LAUNCHER"}),
    "debianutils": frozenset({"update-shells", "update-alternatives /usr/bin/which"}),
    "libpam-runtime": frozenset({"pam-auth-update"}),
    "mawk": frozenset({"update-alternatives /usr/bin/awk"}),
    "less": frozenset({"update-alternatives /usr/bin/pager"}),
    "procps": frozenset({'update-alternatives $BINPATH"/"$BINNAME'}),
    "tar": frozenset({"update-alternatives /usr/sbin/rmt"}),
    "openssh-client": frozenset({"dpkg-statoverride /usr/bin/ssh-agent"}),
    "openssh-server": frozenset({"ucf /etc/ssh/sshd_config"}),
}

#: Effects left out on purpose, and why nothing in a guest of ours misses them.
LEFT_OUT: Mapping[str, frozenset[str]] = {
    # man pages are not in an image
    "bash": frozenset({"update-alternatives /usr/share/man/man7/builtins.7.gz"}),
    # /bin/sh is dash's own file; the diversion only guards hosts where an administrator chose otherwise
    "dash": frozenset({"dpkg-divert $distrib", "dpkg-divert $dfile"}),
    # guards of the move to a merged /usr: they keep an upgrade from losing files, and our trees start out merged
    "base-files": frozenset({"dpkg-divert /$d"}),
    "gzip": frozenset({"dpkg-divert /usr/bin/$tool"}),
    "libc6": frozenset(
        {"dpkg-divert /.${rtlddir#/}.usr-is-merged", "dpkg-divert /lib64/ld-linux-x86-64.so.2"}
    ),
    "libreadline8t64": frozenset({"dpkg-divert /lib/x86_64-linux-gnu/$lib"}),
    # sshd is started by the agent, with the host key it was given; no socket, no key made by itself
    "openssh-server": frozenset(
        {
            "dpkg-divert /usr/sbin/sshd",
            "enable ssh.service",
            "enable ssh.socket",
            "enable sshd-keygen.service",
        }
    ),
    # timers: what is installed in a guest changes by a new lock, not by a timer
    "apt": frozenset({"enable apt-daily-upgrade.timer", "enable apt-daily.timer"}),
    "dpkg": frozenset({"enable dpkg-db-backup.timer"}),
    "util-linux": frozenset({"enable fstrim.timer", "update-alternatives /usr/bin/pager"}),
    # asked for by a debconf question whose default is no
    "iproute2": frozenset({"setcap /bin/ip"}),
    # lets `./x.pyc` run as a program
    "python3.11-minimal": frozenset({"update-binfmts"}),
    "python3.13-minimal": frozenset({"update-binfmts"}),
    # a daemon nobody asked for
    "rsync": frozenset({"enable rsync.service"}),
}

_COMMAND = re.compile(
    r"(?:^|[;&|!(]|\bthen\b|\bdo\b|\belse\b|\bif\b)\s*"
    r"(?P<command>adduser|useradd|addgroup|groupadd|usermod|systemd-sysusers|update-alternatives|dpkg-divert|"
    r"dpkg-statoverride|ucf|setcap|update-passwd|update-ca-certificates|update-shells|pam-auth-update|"
    r"update-binfmts|locale-gen|deb-systemd-helper)\b(?P<rest>[^;&|\n]*)",
    re.MULTILINE,
)
_INERT = re.compile(
    r"--(remove|list|query|update-only|purge|remove-all|help|display|auto)\b|\bunmask\b|\bpurge\b"
)


def unknown_effects(release: str, debs: Mapping[str, Path]) -> list[str]:
    """Return what scripts of `debs` (name -> file) do that the builder does not know, one a line, sorted."""
    accounts = ADDED | _static_accounts(debs)
    return sorted(
        f"{package}: {effect} (Debian {release})"
        for package, path in debs.items()
        for effect in effects(path)
        - REPRODUCED.get(package, frozenset())
        - LEFT_OUT.get(package, frozenset())
        if not _is_known_account(effect, accounts)
    )


def _static_accounts(debs: Mapping[str, Path]) -> frozenset[str]:
    """Return the names that base-passwd brings: Debian's ids below 100."""
    if "base-passwd" not in debs:
        return frozenset()
    masters = [
        entry.content.decode() for entry in read_data(debs["base-passwd"]) if entry.path.endswith(".master")
    ]
    return frozenset(line.split(":")[0] for text in masters for line in text.splitlines())


def _is_known_account(effect: str, accounts: frozenset[str]) -> bool:
    command, _, name = effect.partition(" ")
    if command == "systemd-sysusers":
        return True  # the sysusers.d files it would read are effects of their own
    return command in {"adduser", "useradd", "addgroup", "groupadd", "sysusers"} and name in accounts


def effects(deb: Path) -> set[str]:
    """Return the effects of a package's install scripts and of its sysusers.d files."""
    scripts = read_control(deb).scripts()
    found = {effect for name in ("preinst", "postinst") for effect in _effects_of(scripts.get(name, ""))}
    for entry in read_data(deb):
        if re.fullmatch(r"usr/lib/sysusers\.d/[^/]+\.conf", entry.path):
            found |= {f"sysusers {name}" for name in _sysusers(entry.content.decode())}
    return found


def _effects_of(script: str) -> Iterator[str]:
    text = script.replace("\\\n", " ")
    text = re.sub(r"(?m)^\s*#.*$", "", text)
    for match in _COMMAND.finditer(text):
        if _INERT.search(match["rest"]):
            continue
        if target := _target(match["command"], match["rest"].split()):
            yield target


def _target(command: str, words: list[str]) -> str | None:  # noqa: PLR0911  (one answer a command)
    """Name what a command acts on; None when it changes nothing that is not the package's own."""
    plain = [word.strip("'\"()") for word in words if not re.match(r"\d?>", word)]
    last = plain[-1] if plain else "?"
    paths = [word for word in plain if word.startswith("/")]
    match command:
        case "adduser" | "useradd" | "addgroup" | "groupadd" | "usermod":
            names = [word for word in plain if not word.startswith(("-", "$", "/"))]
            return f"{command} {names[-1] if names else last}"
        case "update-alternatives":
            return f"{command} {plain[plain.index('--install') + 1]}" if "--install" in plain else None
        case "dpkg-divert":
            # usr-merge transitions move their own diversions away on upgrades; a new system has none
            return f"{command} {last if not paths else paths[-1]}" if "--add" in plain else None
        case "dpkg-statoverride":
            return f"{command} {last if not paths else paths[-1]}" if "--add" in plain else None
        case "ucf" | "setcap":
            return f"{command} {last if not paths else paths[-1]}"
        case "deb-systemd-helper":
            return f"enable {last}" if plain[:1] == ["enable"] else None
        case _:
            return command


def _sysusers(text: str) -> Iterator[str]:
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].rstrip("!+-") in {"u", "g"}:
            yield words[1]
