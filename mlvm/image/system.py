"""The system layer: a release's packages, and what their scripts would have made, made by us.

Each function makes one thing that a maintainer script makes on a usual installation; `mlvm.lock.scripts` lists which,
and the golden test compares the whole with dpkg's own work. What differs from a usual installation differs on purpose
and says why.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mlvm.image.accounts import write_accounts
from mlvm.image.debian import merge
from mlvm.image.tree import Tree
from mlvm.lock.document import DebianPackage

#: Units that only cost time in a guest whose system comes from a lock: links to /dev/null.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "ldconfig.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-machine-id-commit.service",
    "systemd-pcrphase-initrd.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-sysusers.service",
    "systemd-update-done.service",
)

SSHD = """\
# Keys only, nobody as root; the host key is given to the machine by whoever started it.
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
X11Forwarding no
AcceptEnv LANG LC_*
"""

NETWORK = """\
# QEMU's user network is always the same, so no time is spent asking for an address.
[Match]
Type=ether
Kind=!*

[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
DNS=10.0.2.3
LinkLocalAddressing=no
IPv6AcceptRA=no

[Link]
RequiredForOnline=no
"""

COMMON_AUTH = (
    "auth [success=1 default=ignore] pam_unix.so nullok\n"
    "auth requisite pam_deny.so\nauth required pam_permit.so\n"
)
COMMON_ACCOUNT = (
    "account [success=1 new_authtok_reqd=done default=ignore] pam_unix.so\n"
    "account requisite pam_deny.so\naccount required pam_permit.so\n"
)
COMMON_CHANGE = (
    "password [success=1 default=ignore] pam_unix.so obscure yescrypt\n"
    "password requisite pam_deny.so\npassword required pam_permit.so\n"
)
COMMON_SESSION = (
    "session [default=1] pam_permit.so\nsession requisite pam_deny.so\n"
    "session required pam_permit.so\nsession required pam_unix.so\n"
)


def system_tree(packages: Iterable[tuple[DebianPackage, Path]]) -> Tree:
    """Return the whole system layer as a tree."""
    tree = merge(packages)
    write_accounts(tree)
    for furnish in (_base, _pam, _certificates, _alternatives, _permissions, _services, _network, _ssh):
        furnish(tree)
    return tree


def _base(tree: Tree) -> None:
    """What base-files, libc-bin, debianutils, passwd and tzdata write."""
    for target, source in (
        ("etc/nsswitch.conf", "usr/share/libc-bin/nsswitch.conf"),
        ("etc/profile", "usr/share/base-files/profile"),
        ("root/.profile", "usr/share/base-files/dot.profile"),
        ("root/.bashrc", "usr/share/base-files/dot.bashrc"),
        ("etc/inputrc", "usr/share/readline/inputrc"),
    ):
        if source in tree:
            tree.file(target, tree.content(source))
    tree.file("etc/hostname", "mlvm\n")
    tree.file("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 mlvm\n::1 localhost ip6-localhost ip6-loopback\n")
    tree.file("etc/machine-id", "", mode=0o444)  # systemd makes one at boot: never the same in two machines
    tree.file("etc/fstab", "# The initramfs has mounted all there is.\n")
    tree.file("etc/environment", "")
    tree.file("etc/shells", "# /etc/shells: valid login shells\n/bin/sh\n/usr/bin/sh\n/bin/bash\n/usr/bin/bash\n"
              "/bin/rbash\n/usr/bin/rbash\n/usr/bin/dash\n")  # fmt: skip
    tree.file("etc/timezone", "Etc/UTC\n")
    tree.symlink("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
    tree.symlink("etc/mtab", "../proc/self/mounts")
    tree.file("etc/default/locale", "LANG=C.UTF-8\n")
    tree.file("etc/locale.conf", "LANG=C.UTF-8\n")
    for folder, mode in (
        ("dev", 0o755), ("proc", 0o755), ("sys", 0o755), ("run", 0o755), ("mnt", 0o755), ("home", 0o755),
        ("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777), ("var/log", 0o755),
        ("var/cache/apt/archives/partial", 0o755),
        ("var/lib/apt/lists/partial", 0o755), ("etc/apt/preferences.d", 0o755), ("etc/opt", 0o755), ("opt", 0o755),
        ("usr/local/bin", 0o755), ("usr/local/sbin", 0o755), ("usr/local/share", 0o755),
        ("var/lib/systemd/coredump", 0o755), ("var/lib/private", 0o700), ("var/log/private", 0o700),
    ):  # fmt: skip
        tree.folder(folder, mode=mode)
    tree.symlink("var/run", "/run")
    tree.symlink("var/lock", "/run/lock")


def _pam(tree: Tree) -> None:
    """What pam-auth-update writes for the profiles `unix` and `systemd`."""
    tree.file("etc/pam.d/common-auth", COMMON_AUTH)
    tree.file("etc/pam.d/common-account", COMMON_ACCOUNT)
    tree.file("etc/pam.d/common-password", COMMON_CHANGE)
    tree.file("etc/pam.d/common-session", COMMON_SESSION)
    tree.file("etc/pam.d/common-session-noninteractive", COMMON_SESSION)


def _certificates(tree: Tree) -> None:
    """What update-ca-certificates makes: the bundle; nothing we ship looks into the folder of links."""
    found = [path for path in tree.under("usr/share/ca-certificates") if path.endswith(".crt")]
    names = [path.removeprefix("usr/share/ca-certificates/") for path in found]
    tree.file("etc/ca-certificates.conf", "".join(f"{name}\n" for name in names))
    for path in found:
        tree.symlink(f"etc/ssl/certs/{Path(path).stem}.pem", "/" + path)
    ends = [tree.content(path).rstrip(b"\n") + b"\n" for path in found]
    tree.file("etc/ssl/certs/ca-certificates.crt", b"".join(ends))


def _alternatives(tree: Tree) -> None:
    """What update-alternatives makes, for the only candidates there are, with its own record of them."""
    for name, link, target, priority in (
        ("awk", "/usr/bin/awk", "/usr/bin/mawk", 5),
        ("pager", "/usr/bin/pager", "/usr/bin/less", 77),
        ("which", "/usr/bin/which", "/usr/bin/which.debianutils", 0),
        ("w", "/usr/bin/w", "/usr/bin/w.procps", 50),
        ("rmt", "/usr/sbin/rmt", "/usr/sbin/rmt-tar", 50),
    ):
        if target.lstrip("/") not in tree:
            continue
        tree.symlink(link.lstrip("/"), f"/etc/alternatives/{name}")
        tree.symlink(f"etc/alternatives/{name}", target)
        tree.file(f"var/lib/dpkg/alternatives/{name}", f"auto\n{link}\n\n{target}\n{priority}\n\n")


def _permissions(tree: Tree) -> None:
    """What dpkg-statoverride and chgrp set, with our fixed ids."""
    tree.change("usr/bin/ssh-agent", mode=0o2755, gid=102)
    tree.change("usr/lib/dbus-1.0/dbus-daemon-launch-helper", mode=0o4754, gid=101)
    for program in ("usr/bin/chage", "usr/bin/expiry", "usr/sbin/unix_chkpwd"):
        tree.change(program, mode=0o2755, gid=42)
    tree.file(
        "var/lib/dpkg/statoverride", "root messagebus 4754 /usr/lib/dbus-1.0/dbus-daemon-launch-helper\n"
    )


def _services(tree: Tree) -> None:
    """Enable what a guest needs, mask what only costs it time, keep the journal in memory."""
    units = "etc/systemd/system"
    for wanted_by, unit in (
        ("multi-user.target", "systemd-networkd.service"),
        ("getty.target", "serial-getty@ttyS0.service"),
    ):
        name = "serial-getty@.service" if unit.startswith("serial-getty") else unit
        tree.symlink(f"{units}/{wanted_by}.wants/{unit}", f"/usr/lib/systemd/system/{name}")
    tree.symlink(f"{units}/default.target", "/usr/lib/systemd/system/multi-user.target")
    for unit in MASKED:
        tree.symlink(f"{units}/{unit}", "/dev/null")
    tree.file("etc/systemd/journald.conf.d/mlvm.conf", "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\n")
    tree.file("etc/systemd/system.conf.d/mlvm.conf", "[Manager]\nDefaultTimeoutStopSec=15s\n")


def _network(tree: Tree) -> None:
    """A fixed address for QEMU's user network."""
    tree.file("etc/systemd/network/80-mlvm.network", NETWORK)
    tree.file("etc/resolv.conf", "nameserver 10.0.2.3\n")


def _ssh(tree: Tree) -> None:
    """What openssh-server's ucf step writes, and our own rules; no host key, the service not enabled."""
    tree.file("etc/ssh/sshd_config", tree.content("usr/share/openssh/sshd_config"))
    tree.file("etc/ssh/sshd_config.d/mlvm.conf", SSHD)
