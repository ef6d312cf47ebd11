"""How our guest differs from a plain Debian: network, name, ssh, journal, and what never runs.

Texts, and why each is there. The machine's own name, keys and identity are not in the image: it is the same for
everybody, and the agent brings them at boot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlvm.errors import BuildError
from mlvm.image.synthesis import enable
from mlvm.image.tree import SOURCE_DATE, Tree
from mlvm.lock.document import Archive

HOSTNAME = "mlvm"
#: QEMU's user network, always the same.
ADDRESS, GATEWAY, NAMESERVER = "10.0.2.15", "10.0.2.2", "10.0.2.3"

_NETWORK = f"""\
# QEMU's user network: the same address in every guest, so nobody waits for DHCP.
[Match]
Type=ether

[Link]
RequiredForOnline=no

[Network]
Address={ADDRESS}/24
Gateway={GATEWAY}
DNS={NAMESERVER}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""
_SSHD = """\
# Keys only. The host key comes from the host, which knows it before the first connection.
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UseDNS no
"""
_JOURNAL = """\
# A guest's journal ends with it: the overlay disk is for the person's data.
[Journal]
Storage=volatile
RuntimeMaxUse=32M
"""
_UPDATED = f"""\
# The hardware database, catalogs and accounts came with the image: nothing to update at boot.
TIMESTAMP_NSEC={SOURCE_DATE}000000000
"""

FILES: Mapping[str, str] = {
    "etc/.updated": _UPDATED,
    "etc/fstab": "# The initramfs mounts the root.\n",
    "etc/hostname": f"{HOSTNAME}\n",
    "etc/hosts": (
        f"127.0.0.1\tlocalhost\n127.0.1.1\t{HOSTNAME}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        "ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
    ),
    "etc/locale.conf": "LANG=C.UTF-8\n",
    "etc/machine-id": "",
    "etc/resolv.conf": f"nameserver {NAMESERVER}\n",
    "etc/ssh/sshd_config.d/mlvm.conf": _SSHD,
    "etc/systemd/journald.conf.d/mlvm.conf": _JOURNAL,
    "etc/systemd/network/10-mlvm.network": _NETWORK,
    "var/.updated": _UPDATED,
}
ENABLED = ("systemd-networkd.service",)
#: Units that would only cost time in a guest that is made anew from an image, or write to a disk that is thrown away.
MASKED = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "ldconfig.service",
    "man-db.timer",
    "proc-sys-fs-binfmt_misc.automount",
    "sshd-keygen.service",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-boot-system-token.service",
    "systemd-firstboot.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-network-generator.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pcrphase.service",
    "systemd-pstore.service",
    "systemd-remount-fs.service",
    "systemd-sysusers.service",
    "systemd-update-done.service",
    "tmp.mount",  # trixie's /tmp would be in memory, which people need for their data
)
#: systemd 256 would listen for ssh on sockets of its own making.
MASKED_GENERATORS = ("systemd-ssh-generator",)


def add_settings(tree: Tree, archives: Iterable[Archive], *, release: str) -> None:
    """Write our settings over the distribution's, and apt's sources for whoever installs more."""
    for path, text in FILES.items():
        tree.file(path, text, mode=0o444 if path == "etc/machine-id" else 0o644)
    tree.symlink("etc/default/locale", "../locale.conf")
    tree.file("etc/apt/sources.list", _sources(archives, release))
    for unit in ENABLED:
        enable(tree, unit)
    for unit in MASKED:
        tree.symlink(f"etc/systemd/system/{unit}", "/dev/null")
    for generator in MASKED_GENERATORS:
        tree.symlink(f"etc/systemd/system-generators/{generator}", "/dev/null")


def _sources(archives: Iterable[Archive], release: str) -> str:
    """Return apt's sources: the release's archives where the lock has them from."""
    lines = [
        f"deb {archive.uri} {archive.suite} {' '.join(archive.components)}"
        for archive in archives
        if archive.name in {release, f"{release}-security", f"{release}-updates"}
    ]
    if not lines:
        raise BuildError(f"the lock names no archive of Debian {release}", hint="mlvm lock")
    return "\n".join(lines) + "\n"
