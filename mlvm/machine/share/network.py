"""Where the guest finds the shared folders: an address of QEMU's user network that leads to a socket of ours."""

from __future__ import annotations

SHARE_ADDRESS = "10.0.2.4"
#: The usual ports of NFS and of its MOUNT protocol. Two, since each carries one connection at a time.
SHARE_PORT, MOUNT_PORT = 2049, 20048
#: User and group of the guest's ordinary user (`mlvm.image.accounts`; importing that takes the server too long).
GUEST_ID = 1000
