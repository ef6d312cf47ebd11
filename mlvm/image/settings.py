"""How our guest differs from a plain Debian: network, name, ssh, journal, and what never runs.

Texts, and why each is there. The machine's own name, keys and identity are not in the image: it is the same for
everybody, and the agent brings them at boot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mlvm.errors import BuildError
from mlvm.image.network import ADDRESS, GATEWAY, NAMESERVER
from mlvm.image.synthesis import enable
from mlvm.image.tree import SOURCE_DATE, Tree
from mlvm.lock.document import Archive

HOSTNAME = "mlvm"

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
# A guest's journal ends with it: the overlay disk is for the person's data. Auditing would make every system call of
# every program slower, and nobody reads it.
[Journal]
Storage=volatile
RuntimeMaxUse=32M
Audit=no
"""
_NETWORK_DONE = """\
# Where the initramfs has given the card its address, nobody else need do so: a second and more of every boot.
[Unit]
ConditionKernelCommandLine=!mlvm.network
"""
_COLDPLUG = """\
# Only what is a device of this machine: the guest kernel's own ones (64 consoles, memory, CPUs) need nothing of udev,
# and would take it seconds. Modules for features of the CPU are loaded by whoever asks for them.
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --prioritized-subsystem=block,net {subsystems}
ExecStart=-udevadm trigger --action=add --name-match=/dev/ttyS0
"""
#: What users see, and what modules are found by.
_COLDPLUGGED = (
    *("block", "drm", "hidraw", "input", "net", "nvme", "pci"),
    *("rtc", "scsi", "sound", "usb", "virtio", "virtio-ports"),
)
_LATE_LOGIN = """\
# Nothing of a boot needs logind. Who logs in calls it by D-Bus; for the power button it is there a little later.
[Unit]
Description=User Login Management, when the boot is over

[Timer]
OnBootSec=45s
AccuracySec=15s

[Install]
WantedBy=timers.target
"""
_TMP = """\
# The initramfs empties /tmp, so that programs may use it from the first moment.
q /tmp 1777 root root -
q /var/tmp 1777 root root -
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
    "etc/systemd/system/systemd-logind.timer": _LATE_LOGIN,
    "etc/systemd/system/systemd-networkd.service.d/mlvm.conf": _NETWORK_DONE,
    "etc/systemd/system/systemd-networkd.socket.d/mlvm.conf": _NETWORK_DONE,
    "etc/systemd/system/systemd-udev-trigger.service.d/mlvm.conf": _COLDPLUG.format(
        subsystems=" ".join(f"--subsystem-match={name}" for name in _COLDPLUGGED)
    ),
    "etc/tmpfiles.d/tmp.conf": _TMP,
    "var/.updated": _UPDATED,
}
#: sshd starts with its first client.
ENABLED = ("ssh.socket", "systemd-networkd.service")
LINKS: Mapping[str, str] = {
    "etc/systemd/system/timers.target.wants/systemd-logind.timer": "../systemd-logind.timer",
    # These two are called by whoever needs them; masked is only that every boot does.
    "etc/systemd/system/multi-user.target.wants/dbus.service": "/dev/null",
    "etc/systemd/system/multi-user.target.wants/systemd-logind.service": "/dev/null",
}
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
    # Mounts that a program makes itself on the day it needs one; POSIX queues, huge pages and FUSE work without.
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "sys-fs-fuse-connections.mount",
    # Modules that the guest kernel loads by itself when their device is opened.
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    # The initramfs has made what these would make.
    "kmod-static-nodes.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    # Nothing is partitioned, flushed to disk, or kept of the last boot.
    "systemd-journal-flush.service",
    "systemd-machine-id-commit.service",
    "systemd-repart.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    # The CPU and virtio-rng give random numbers from the first moment; a seed on the disk would add nothing.
    "systemd-random-seed.service",
    "systemd-journald-audit.socket",
    "systemd-initctl.socket",
)
#: Each is a program that every boot waits for, to look for disks, words or files that a guest of ours does not have.
MASKED_GENERATORS = (
    "systemd-bless-boot-generator",
    "systemd-cryptsetup-generator",
    "systemd-gpt-auto-generator",
    "systemd-hibernate-resume-generator",
    "systemd-import-generator",
    "systemd-integritysetup-generator",
    "systemd-run-generator",
    "systemd-ssh-generator",  # systemd 256 would listen for ssh on sockets of its own making
    "systemd-system-update-generator",
    "systemd-tpm2-generator",
    "systemd-veritysetup-generator",
)


def add_settings(tree: Tree, archives: Iterable[Archive], *, release: str) -> None:
    """Write our settings over the distribution's, and apt's sources for whoever installs more."""
    for path, text in FILES.items():
        tree.file(path, text, mode=0o444 if path == "etc/machine-id" else 0o644)
    tree.symlink("etc/default/locale", "../locale.conf")
    tree.file("etc/apt/sources.list", _sources(archives, release))
    for unit in ENABLED:
        enable(tree, unit)
    for path, target in LINKS.items():
        tree.symlink(path, target)
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
