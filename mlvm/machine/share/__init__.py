"""Folders of the host inside a machine: an NFS server of the user's own that only the guest can reach.

The guest's side is its guest kernel's NFS client: nothing to install, no program in the way. Requests come through a
character device of QEMU's on a unix socket, so that nothing listens on any port. NFS version 3 keeps no state on the
server, hence a machine may be suspended, copied or restored with its folders open, and the server may die and come
back. `docs/share.md` says what else was measured.
"""
