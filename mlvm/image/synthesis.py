"""The files that maintainer scripts would have written, written here.

One small function a package or matter, each holding itself to what the package itself ships as a template wherever
there is one, so that a new version's template is followed. `tests/image/test_golden.py` compares the outcome with
what dpkg makes of the same packages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from mlvm.image.accounts import Accounts
from mlvm.image.certificates import add_certificates
from mlvm.image.library_cache import add_library_cache
from mlvm.image.merged import MERGED
from mlvm.image.pam import add_pam
from mlvm.image.tree import Tree
from mlvm.lock.scripts import Alternative, Scripts

#: Files copied as they are from a template that a package ships.
COPIES: Mapping[str, str] = {
    "etc/inputrc": "usr/share/readline/inputrc",
    "etc/motd": "usr/share/base-files/motd",
    "etc/nsswitch.conf": "usr/share/libc-bin/nsswitch.conf",
    "etc/profile": "usr/share/base-files/profile",
    "etc/ssh/sshd_config": "usr/share/openssh/sshd_config",
    "root/.bashrc": "usr/share/base-files/dot.bashrc",
    "root/.profile": "usr/share/base-files/dot.profile",
    "usr/share/info/dir": "usr/share/base-files/info.dir",
}
LINKS: Mapping[str, str] = {
    "etc/dpkg/origins/default": "debian",
    "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
    "etc/mtab": "../proc/self/mounts",
    "etc/os-release": "../usr/lib/os-release",
    "usr/local/man": "share/man",
    "var/lib/dbus/machine-id": "/etc/machine-id",
    "var/lock": "/run/lock",
    "var/run": "/run",
    "var/spool/mail": "../mail",
}
#: Folder -> (mode, group) where a script makes it.
FOLDERS: Mapping[str, tuple[int, str]] = {
    "boot": (0o755, "root"),
    "dev": (0o755, "root"),
    "etc/opt": (0o755, "root"),
    "etc/sysctl.d": (0o755, "root"),
    "home": (0o755, "root"),
    "media": (0o755, "root"),
    "mnt": (0o755, "root"),
    "opt": (0o755, "root"),
    "proc": (0o755, "root"),
    "root": (0o700, "root"),
    "run": (0o755, "root"),
    "srv": (0o755, "root"),
    "sys": (0o755, "root"),
    "tmp": (0o1777, "root"),
    "usr/local": (0o755, "root"),
    "usr/local/bin": (0o755, "root"),
    "usr/local/etc": (0o755, "root"),
    "usr/local/games": (0o755, "root"),
    "usr/local/include": (0o755, "root"),
    "usr/local/lib": (0o755, "root"),
    "usr/local/sbin": (0o755, "root"),
    "usr/local/share": (0o755, "root"),
    "usr/local/share/ca-certificates": (0o755, "root"),
    "usr/local/share/man": (0o755, "root"),
    "usr/local/src": (0o755, "root"),
    "var/cache": (0o755, "root"),
    "var/cache/private": (0o700, "root"),
    "var/lib/private": (0o700, "root"),
    "var/lib/systemd/catalog": (0o755, "root"),
    "var/lib/systemd/coredump": (0o755, "root"),
    "var/lib/systemd/pstore": (0o755, "root"),
    "var/log": (0o755, "root"),
    "var/log/private": (0o700, "root"),
    "var/mail": (0o2775, "mail"),
    "var/opt": (0o755, "root"),
    "var/tmp": (0o1777, "root"),
}
TEXTS: Mapping[str, str] = {
    "etc/environment": "",
    "etc/modules": "# Modules to load at boot, one a line.\n",
    "etc/networks": "default\t\t0.0.0.0\nloopback\t127.0.0.0\nlink-local\t169.254.0.0\n\n",
    "etc/python3/debian_config": (
        "[DEFAULT]\n# how to byte-compile (comma separated: standard, optimize)\nbyte-compile = standard\n"
    ),
}
#: The one file that ucf writes, and the package that lets it.
UCF = ("etc/ssh/sshd_config", "openssh-server")


def synthesize(tree: Tree, scripts: Scripts, accounts: Accounts, *, python: str) -> None:
    """Do all that the scripts of the packages in `tree` would have done."""
    _merge_usr(tree)
    for path, (mode, group) in FOLDERS.items():
        tree.folder(path, mode=mode, group=accounts.gid(group))
    for path, template in COPIES.items():
        if template in tree:
            tree.file(path, tree.read(template))
    for path in scripts.folders:
        tree.folder(path)
    for path, target in (*LINKS.items(), *scripts.links.items()):
        tree.symlink(path, target)
    for path, text in (*TEXTS.items(), *scripts.texts.items()):
        tree.file(path, text)
    tree.file("etc/security/opasswd", "", mode=0o600)
    tree.file(f"var/lib/python/python{python}_installed", "")
    tree.folder(f"usr/local/lib/python{python}")
    tree.folder(f"usr/local/lib/python{python}/dist-packages")
    _shells(tree)
    _logs(tree, accounts)
    _ucf(tree)
    add_pam(tree)
    add_certificates(tree)
    add_library_cache(tree)
    for alternative in scripts.alternatives:
        _alternative(tree, alternative)
    _overrides(tree, scripts, accounts)
    for unit, enabled in scripts.units.items():
        if enabled:
            enable(tree, unit)


def _merge_usr(tree: Tree) -> None:
    """Make /bin, /sbin, /lib and /lib64 links; packages' own folders of these names are gone already."""
    for old, new in MERGED.items():
        if old in {"bin", "sbin", "lib", "lib64"}:
            tree.symlink(old, new)
            if new not in tree:
                tree.folder(new)
        elif new in tree:
            tree.symlink(old, new)
    if tree.nodes.get("usr/bin/sh") is None:
        tree.symlink("usr/bin/sh", "dash")


def _shells(tree: Tree) -> None:
    """Write what update-shells makes of the lists that shells bring: each also under its other name in /usr."""
    shells = ["/bin/sh", "/usr/bin/sh"]
    for path in tree.children("usr/share/debianutils/shells.d"):
        for shell in tree.read(path).decode().split():
            shells += [shell, f"/usr{shell}"] if shell.startswith("/bin/") else [shell]
    if not tree.children("usr/share/debianutils/shells.d"):  # an older update-shells has no lists
        shells += [
            path for name in ("dash", "bash", "rbash") for path in (f"/bin/{name}", f"/usr/bin/{name}")
        ]
    text = "".join(f"{shell}\n" for shell in dict.fromkeys(shells))
    tree.file("etc/shells", "# /etc/shells: valid login shells\n" + text)
    tree.file("var/lib/shells.state", text)


def _logs(tree: Tree, accounts: Accounts) -> None:
    """Make the files that login's and base-files' scripts touch."""
    tree.file("var/log/btmp", "", mode=0o660, group=accounts.gid("utmp"))
    tree.file("var/log/lastlog", "", mode=0o664, group=accounts.gid("utmp"))
    tree.file("var/log/wtmp", "", mode=0o664, group=accounts.gid("utmp"))


def _ucf(tree: Tree) -> None:
    """Tell ucf what it wrote, so that an upgrade in the guest replaces a file that nobody has changed."""
    path, package = UCF
    if path in tree:
        content = tree.read(path)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
        tree.file("var/lib/ucf/hashfile", f"{digest}  /{path}\n")
        tree.file("var/lib/ucf/registry", f"{package} \t /{path}\n")
        tree.file("var/lib/ucf/cache/:" + path.replace("/", ":"), content)


def _alternative(tree: Tree, alternative: Alternative) -> None:
    """Link an alternative to its best candidate and tell update-alternatives of all."""
    there = [(path, rank) for path, rank in alternative.candidates if _program(tree, path)]
    if not there:
        return
    best = max(there, key=lambda candidate: candidate[1])[0]
    links = [(alternative.name, alternative.link, best), *alternative.slaves]
    for name, link, target in links:
        tree.symlink(link.lstrip("/"), f"/etc/alternatives/{name}")
        tree.symlink(f"etc/alternatives/{name}", target)
    lines = ["auto", alternative.link]
    for name, link, _ in alternative.slaves:
        lines += [name, link]
    lines.append("")
    for path, rank in there:
        lines += [path, str(rank), *(target for _, _, target in alternative.slaves)]
    tree.file(f"var/lib/dpkg/alternatives/{alternative.name}", "\n".join(lines) + "\n\n")


def _program(tree: Tree, path: str) -> bool:
    spelt = path.lstrip("/")
    return spelt in tree or f"usr/{spelt}" in tree


def _overrides(tree: Tree, scripts: Scripts, accounts: Accounts) -> None:
    for override in scripts.overrides:
        if (node := tree.nodes.get(override.path)) is not None:
            owner, group = accounts.uid(override.user), accounts.gid(override.group)
            tree.put(override.path, replace(node, mode=override.mode, uid=owner, gid=group))


def enable(tree: Tree, unit: str) -> None:
    """Enable `unit` by the links its [Install] section asks for."""
    text = tree.read(f"usr/lib/systemd/system/{unit}").decode()
    for line in text.splitlines():
        key, _, value = line.partition("=")
        for name in value.split():
            target = f"/usr/lib/systemd/system/{unit}"
            if key in {"WantedBy", "RequiredBy"}:
                kind = "wants" if key == "WantedBy" else "requires"
                tree.symlink(f"etc/systemd/system/{name}.{kind}/{unit}", target)
            elif key == "Alias":
                tree.symlink(f"etc/systemd/system/{name}", target)
            elif key == "Also" and f"usr/lib/systemd/system/{name}" in tree and name not in _NOT_ALSO:
                enable(tree, name)


#: Units that another's `Also=` would enable and the image does without: it would wait for a network nobody needs yet.
_NOT_ALSO = frozenset({"systemd-networkd-wait-online.service"})
