"""After a restore: make a copy of a guest a guest of its own.

The guest kernel is told by the vmgenid device that it is a copy, where its release listens to that; fresh entropy from
the host is put in all the same, before anything asks for a random number.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
SIOCSIFHWADDR = 0x8924
ETHERNET = 1


def add_entropy(seed: bytes) -> None:
    """Put `seed` into the guest kernel's pool, counted in full, and draw its generator anew from that at once."""
    fd = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, RNDADDENTROPY, struct.pack("ii", 8 * len(seed), len(seed)) + seed)
        fcntl.ioctl(fd, RNDRESEEDCRNG)
    finally:
        os.close(fd)


def set_mac(interface: str, address: str | None) -> None:
    """Give an interface another hardware address, if one is given, and tell the network.

    virtio's may change while it is up. Errors are for the journal: a guest is itself without it, too.
    """
    if address is None or address == _mac_of(interface):
        return
    with open(f"/proc/sys/net/ipv4/conf/{interface}/arp_notify", "w") as notify:  # noqa: PTH123
        notify.write("1")
    octets = bytes.fromhex(address.replace(":", ""))
    request = struct.pack("16sH6s8x", interface.encode(), ETHERNET, octets)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFHWADDR, request)


def _mac_of(interface: str) -> str:
    """Return the hardware address that an interface has."""
    try:
        with open(f"/sys/class/net/{interface}/address", encoding="ascii") as stream:  # noqa: PTH123
            return stream.read().strip()
    except OSError:
        return ""
