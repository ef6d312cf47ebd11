"""The box layer: what a guest of ours lacks for a hypervisor that is not our QEMU, and for Vagrant.

The topmost of a box's layers, and the only one that is not the image's own. No agent, no port of ours: what a box
offers is a user `vagrant` by ssh, an address by DHCP on whatever card there is. It holds nothing of one machine's: keys
come at the first boot, from the seed when Vagrant attaches one, and else are made there and then.
"""

from __future__ import annotations

from collections.abc import Callable

from mlvm.image.accounts import USER
from mlvm.image.environment import VENV
from mlvm.image.settings import FILES
from mlvm.image.tree import Tree

NAME = "vagrant"
HOME = f"home/{NAME}"
#: Vagrant's public key of old, which every box begins with; at the first `up` Vagrant puts its own in its place.
VAGRANT_KEY = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGEFHzD8+v1I2YJ6oXevct1Y"
    "eS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pz"
    "C6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyL"
    "bIbEgE98OHlnVYCzRdK8jlqm8tehUc9c9WhQ== vagrant insecure public key\n"
)
#: A file system with this label, on any disk or disc, has a machine's keys.
SEED_LABEL = "MLVMSEED"
KEYS_PROGRAM = "usr/lib/mlvm/box-keys"
NAMES_PROGRAM = "usr/lib/mlvm/box-nameservers"

_NETWORK = """\
# Any card, and the address by DHCP. The number is high, so that what Vagrant writes for its own networks comes first.
[Match]
Type=ether

[Link]
RequiredForOnline=no

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no

[DHCPv4]
# The same address after every boot and for every copy's own card.
ClientIdentifier=mac
"""
_KEYS = f"""\
#!/bin/sh
# The machine's keys: from the seed, a small disc of whoever made the machine, who then knows the host key before the
# first connection; without one, a host key is made here, once, and Vagrant's own way to log in stays.
set -u
export PATH=/usr/sbin:/usr/bin
key=/etc/ssh/ssh_host_ed25519_key
seed=/run/mlvm-seed

modprobe -qa sr_mod isofs vfat 2>/dev/null
udevadm settle --timeout=20
device=$(blkid -t LABEL={SEED_LABEL} -o device | head -n 1)
if [ -n "$device" ] && mkdir -p "$seed" && mount -o ro,nosuid,nodev,noexec "$device" "$seed"; then
    if [ -f "$seed/hostkey" ] && [ -f "$seed/userkey" ]; then
        install -m 0600 "$seed/hostkey" "$key"
        ssh-keygen -y -f "$key" > "$key.pub"
        # Once the seed has said who may log in, it is not said again: what was changed since stays.
        if [ ! -e /var/lib/mlvm-seeded ]; then
            install -m 0600 -o {NAME} -g {NAME} "$seed/userkey" /{HOME}/.ssh/authorized_keys
            touch /var/lib/mlvm-seeded
        fi
    else
        echo "the seed has no keys: it is left alone" >&2
    fi
    umount "$seed"
fi
[ -s "$key" ] || ssh-keygen -q -t ed25519 -N "" -C "" -f "$key"
"""
_KEYS_UNIT = f"""\
[Unit]
Description=Keys of this machine
DefaultDependencies=no
After=systemd-udev-trigger.service local-fs.target
Before=ssh.socket
ConditionPathIsReadWrite=/etc/ssh

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/{KEYS_PROGRAM}

[Install]
WantedBy=ssh.socket
"""
_NAMES = """\
#!/bin/sh
# Name servers, as DHCP gave them: nobody else here writes resolv.conf.
set -u
mkdir -p /run/mlvm
{
    for server in $(sed -n "s/^DNS=//p" /run/systemd/netif/state); do echo "nameserver $server"; done
    domains=$(sed -n "s/^DOMAINS=//p" /run/systemd/netif/state)
    [ -z "$domains" ] || echo "search $domains"
} > /run/mlvm/resolv.conf.new
mv /run/mlvm/resolv.conf.new /run/mlvm/resolv.conf
"""
_NAMES_UNIT = f"""\
[Unit]
Description=Name servers from DHCP
After=systemd-networkd.service mlvm-nameservers.path
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/{NAMES_PROGRAM}
"""
_NAMES_PATH = """\
[Unit]
Description=Name servers from DHCP, when they change

[Path]
PathChanged=/run/systemd/netif/state

[Install]
WantedBy=multi-user.target
"""
_ENVIRONMENT = f"""\
# For programs that are run by ssh without a shell of one's own, as Vagrant does.
PATH="/{VENV}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""
_SCREEN_LOGIN = "etc/systemd/system/getty.target.wants/getty@tty1.service"
_ACCOUNTS = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
_SECRET = {"shadow", "gshadow"}
_SHADOW_GROUP = 42


def make_box_layer(read: Callable[[str], bytes]) -> Tree:
    """Return the tree of the box layer; `read` gives a file of the system layer."""
    tree = Tree()
    _add_user(tree, read)
    _add_network(tree)
    _add_keys(tree)
    # All that there is on a hypervisor's buses, its own bus included.
    trigger = "etc/systemd/system/systemd-udev-trigger.service.d/mlvm.conf"
    tree.file(
        trigger,
        FILES[trigger].replace("--subsystem-match=block", "--subsystem-match=vmbus --subsystem-match=block"),
    )
    tree.symlink(_SCREEN_LOGIN, "/usr/lib/systemd/system/getty@.service")
    tree.file("etc/environment", _ENVIRONMENT)
    tree.add_parents()
    return tree


def _add_user(tree: Tree, read: Callable[[str], bytes]) -> None:
    """Let the person be called `vagrant`, with the id that she has in our own machines."""
    for name in _ACCOUNTS:
        lines = [
            ":".join(_renamed(field) for field in line.split(":"))
            for line in read(f"etc/{name}").decode().splitlines()
        ]
        secret = name in _SECRET
        tree.file(
            f"etc/{name}", "\n".join(lines) + "\n",
            mode=0o640 if secret else 0o644, group=_SHADOW_GROUP if secret else 0,
        )  # fmt: skip
    tree.file("etc/sudoers.d/mlvm", f"{NAME} ALL=(ALL:ALL) NOPASSWD: ALL\n", mode=0o440)
    tree.folder(HOME, mode=0o750, owner=USER.uid, group=USER.gid)
    tree.folder(f"{HOME}/.ssh", mode=0o700, owner=USER.uid, group=USER.gid)
    tree.file(f"{HOME}/.ssh/authorized_keys", VAGRANT_KEY, mode=0o600, owner=USER.uid, group=USER.gid)
    for name in (".bashrc", ".profile", ".bash_logout"):
        tree.file(f"{HOME}/{name}", read(f"etc/skel/{name}"), owner=USER.uid, group=USER.gid)


def _renamed(field: str) -> str:
    """Return a field of an account's line with our user's name exchanged, in lists of names too."""
    if field == USER.home:
        return f"/{HOME}"
    return ",".join(NAME if name == USER.name else name for name in field.split(","))


def _add_network(tree: Tree) -> None:
    tree.symlink("etc/systemd/network/10-mlvm.network", "/dev/null")
    tree.file("etc/systemd/network/99-mlvm.network", _NETWORK)
    tree.symlink("etc/resolv.conf", "/run/mlvm/resolv.conf")
    tree.file(NAMES_PROGRAM, _NAMES, mode=0o755)
    tree.file("usr/lib/systemd/system/mlvm-nameservers.service", _NAMES_UNIT)
    tree.file("usr/lib/systemd/system/mlvm-nameservers.path", _NAMES_PATH)
    # The service for what DHCP has said before the path was looked at, the path for all that comes after.
    for unit in ("mlvm-nameservers.path", "mlvm-nameservers.service"):
        tree.symlink(f"etc/systemd/system/multi-user.target.wants/{unit}", f"/usr/lib/systemd/system/{unit}")


def _add_keys(tree: Tree) -> None:
    tree.file(KEYS_PROGRAM, _KEYS, mode=0o755)
    tree.file("usr/lib/systemd/system/mlvm-keys.service", _KEYS_UNIT)
    wants = "etc/systemd/system/ssh.socket.wants/mlvm-keys.service"
    tree.symlink(wants, "/usr/lib/systemd/system/mlvm-keys.service")
