"""Folders of the host, as the guest kernel's NFS client sees them.

The server is reached through QEMU's user network; there is nothing to know of it but an address. Mounting goes on in
the background, since whoever starts a machine need not wait for it: whoever runs something in it does.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH103, PTH123

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from contextlib import suppress

from .wire import Message
from .world import World, account

ADDRESS, PORT, MOUNT_PORT = "10.0.2.4", 2049, 20048
#: What is written goes out at once, what was read is believed for a second, what was missing not at all. A server that
#: is away is waited for; locks are the guest's own.
OPTIONS = (
    f"vers=3,proto=tcp,addr={ADDRESS},port={PORT},mountaddr={ADDRESS},mountport={MOUNT_PORT},mountproto=tcp,mountvers=3,"
    "nolock,noacl,hard,timeo=50,retrans=2,actimeo=1,lookupcache=pos,rsize=1048576,wsize=1048576"
)
#: Known to guest kernels since 5.12; before, what is written goes out when its file is closed.
EAGER, EAGER_SINCE = ",write=eager", (5, 12)
MS_RDONLY, MS_NOSUID, MS_NODEV, MNT_DETACH = 1, 2, 4, 2
#: Seconds that programs wait for a mount, and a mount for its program.
PATIENCE = 45.0
NETLINK_SOCK_DIAG, SOCK_DESTROY = 4, 21


class Shares:
    """The mounts of this guest."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._thread: threading.Thread | None = None
        self._places: list[str] = []
        #: Place -> why it is not there.
        self._failed: dict[str, str] = {}
        self._guard = threading.Lock()

    def prepare(self) -> None:
        """Load what mounting needs: a guest that is saved now need not do it later."""
        _run(["/sbin/modprobe", "-a", "nfs", "nfsv3", "tcp_diag"])

    def share(self, request: Message) -> None:
        """Begin to mount the folders asked for, and to unmount all others."""
        wanted = [(int(one["number"]), str(one["at"]), bool(one["write"])) for one in request["shares"]]
        self._places = [place for _, place, _ in wanted]
        before = self._thread
        self._thread = threading.Thread(target=self._mount_all, args=(wanted, before), daemon=True)
        self._thread.start()

    def wait(self, cwd: str | None) -> None:
        """Return when nothing is being mounted any more. Raises OSError when `cwd` is in what cannot be mounted."""
        thread = self._thread
        if thread is not None:
            thread.join(PATIENCE)
            if thread.is_alive() and any(_is_in(cwd, place) for place in self._places):
                raise OSError(f"the shared folder does not appear in {PATIENCE:.0f} s")
        for place, why in self._failed.items():
            if _is_in(cwd, place):
                raise OSError(f"the folder shared at `{place}` cannot be mounted: {why}")

    def status(self, _: Message) -> Message:
        """Say what is mounted, and what cannot be."""
        self.wait(None)
        return {"mounted": mounted(), "failed": self._failed}

    def reset(self, _: Message) -> int:
        """End the client's connections, so that nothing half-sent is taken for the beginning of an answer."""
        return sum(destroy(port) for port in connections())

    def _mount_all(self, wanted: list[tuple[int, str, bool]], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        with self._guard:
            self._failed = {}
            there = mounted()
            right = {place: number for number, place, _ in wanted}
            for place, number in there.items():
                if right.get(place) != number:
                    with suppress(OSError):
                        unmount(place)
            for number, place, write in wanted:
                try:
                    if there.get(place) != number:
                        self._mount(number, place, write)
                except (OSError, ValueError) as failed:
                    self._failed[place] = str(failed)

    def _mount(self, number: int, place: str, write: bool) -> None:
        if not os.path.isdir(place):  # noqa: PTH112
            os.makedirs(place, exist_ok=True)
            who = account(self._world.user)
            os.chown(place, who.pw_uid, who.pw_gid)
        if not known():
            _run(["/sbin/modprobe", "-a", "nfs", "nfsv3"])
        mount(f"{ADDRESS}:/{number}", place, write=write)


def mount(source: str, place: str, *, write: bool) -> None:
    """Mount what the host shares. Raises OSError.

    The guest kernel is asked directly: `mount`, a program more, takes a tenth of a second under emulation.
    """
    flags = MS_NOSUID | MS_NODEV | (0 if write else MS_RDONLY)
    options = OPTIONS + (EAGER if release() >= EAGER_SINCE else "")
    _call("mount", source.encode(), os.fsencode(place), b"nfs", flags, options.encode())


def unmount(place: str) -> None:
    """Take a mount away, whoever uses it. Raises OSError."""
    _call("umount2", os.fsencode(place), MNT_DETACH)


def _call(function: str, *arguments: bytes | int) -> None:
    import ctypes  # noqa: PLC0415 - only where there is something to mount

    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _is_in(path: str | None, place: str) -> bool:
    return path is not None and (path + "/").startswith(place + "/")


def release() -> tuple[int, ...]:
    """Return the guest kernel's first two numbers."""
    return tuple(int(part) for part in os.uname().release.split(".")[:2])


def known(table: str = "/proc/filesystems") -> bool:
    """Tell whether the guest kernel can mount what the host shares."""
    with open(table, encoding="ascii") as stream:
        return "\tnfs\n" in stream.read()


def mounted(table: str = "/proc/self/mounts") -> dict[str, int]:
    """Return place -> number of what is mounted from the host."""
    found = {}
    with open(table, encoding="utf-8", errors="surrogateescape") as stream:
        for line in stream:
            source, place = line.split(" ")[:2]
            if source.startswith(f"{ADDRESS}:/"):
                found[_plain(place)] = int(source.rpartition("/")[2])
    return found


def _plain(text: str) -> str:
    """Undo the escapes of the table of mounts."""
    for escape, character in (
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\043", "#"),
        ("\\134", "\\"),
    ):
        text = text.replace(escape, character)
    return text


def connections(table: str = "/proc/net/tcp") -> list[int]:
    """Return the local ports of connections to the server."""
    remote = f"{struct.unpack('<I', socket.inet_aton(ADDRESS))[0]:08X}:{PORT:04X}"
    with open(table, encoding="ascii") as stream:
        rows = [line.split() for line in stream][1:]
    return [int(row[1].partition(":")[2], 16) for row in rows if row[2] == remote]


def destroy(port: int) -> bool:
    """Abort the connection from a local port to the server, as `ss -K` does; return whether there was one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((ADDRESS, PORT))
        local = probe.getsockname()[0]
    identity = struct.pack(
        "!HH4s12x4s12xIII",
        port,
        PORT,
        socket.inet_aton(local),
        socket.inet_aton(ADDRESS),
        0,
        0xFFFFFFFF,
        0xFFFFFFFF,
    )
    body = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + identity
    header = struct.pack("=IHHII", 16 + len(body), SOCK_DESTROY, 0x5, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(5)
        kernel.send(header + body)
        answer = kernel.recv(4096)
    return bool(struct.unpack_from("=i", answer, 16)[0] == 0)


def _run(command: list[str]) -> str:
    """Run a program; return what it said if it failed."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as failed:
        return str(failed)
    said = done.stdout.decode("utf-8", "replace").strip()
    return "" if done.returncode == 0 else said or f"`{command[0]}` ended with code {done.returncode}"
