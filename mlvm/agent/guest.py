"""What makes this guest the machine it is: name, identity, keys, time; and its power switch.

Nothing of this is in the image, which is the same for everybody. All of it may be asked for again at every
start.
"""

# `pathlib` costs a tenth of a second of every boot under emulation.
# ruff: noqa: PTH102, PTH110, PTH104, PTH108, PTH112, PTH118, PTH123

from __future__ import annotations

import os
import socket
import subprocess
import time

from .wire import Message
from .world import World, account

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"


def configure(world: World, request: Message) -> Message:
    """Apply what there is of hostname, machine_id, time, ssh_host_key, authorized_key."""
    if "time" in request:
        set_clock(request["time"])
    if "hostname" in request:
        set_hostname(str(request["hostname"]))
    if "machine_id" in request:
        _write_if_new("/etc/machine-id", request["machine_id"] + "\n", 0o444)
    if "authorized_key" in request:
        authorize(world.user, request["authorized_key"])
    if "ssh_host_key" in request:
        _write_if_new(HOST_KEY, request["ssh_host_key"], 0o600)  # sshd starts with its first client
    return {"time": time.time()}


def set_clock(seconds: float) -> float:
    """Set the clock unless it is right within a fifth of a second; return by how much it was wrong."""
    wrong = float(seconds) - time.time()
    if abs(wrong) > 0.2:
        time.clock_settime(time.CLOCK_REALTIME, float(seconds))
    return wrong


def set_hostname(name: str) -> None:
    """Name the guest, now and for its next boot."""
    socket.sethostname(name)
    _write_if_new("/etc/hostname", name + "\n", 0o644)
    hosts = f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    _write_if_new("/etc/hosts", hosts, 0o644)


def authorize(user: str, public_key: str) -> None:
    """Let the holder of a key log in as `user`; keys the user has added stay."""
    who = account(user)
    folder = os.path.join(who.pw_dir, ".ssh")
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o700)
        os.chown(folder, who.pw_uid, who.pw_gid)
    path = os.path.join(folder, "authorized_keys")
    known = _read(path)
    if public_key.strip() not in known.splitlines():
        _write_if_new(path, known.rstrip("\n") + ("\n" if known else "") + public_key.strip() + "\n", 0o600)
        os.chown(path, who.pw_uid, who.pw_gid)


def part_from(world: World, request: Message) -> None:
    """Be known by no key of the machine that this one is a fork of."""
    if "former_key" in request:
        path = os.path.join(account(world.user).pw_dir, ".ssh", "authorized_keys")
        former = request["former_key"].strip()
        kept = [line for line in _read(path).splitlines() if line.strip() != former]
        _write_if_new(path, "\n".join(kept) + "\n", 0o600)
        os.chown(path, account(world.user).pw_uid, account(world.user).pw_gid)
    if "ssh_host_key" in request and os.path.exists("/run/sshd.pid"):  # it has read the former host key
        _background(["systemctl", "try-restart", "--no-block", "ssh.service"])


def power_off() -> None:
    """Begin an orderly shutdown; the answer gets out before it is done."""
    _background(["systemctl", "poweroff", "--no-block"])


def _background(command: list[str]) -> None:
    """Start a program nobody waits for, in a way that leaves no zombie: by a parent that ends at once."""
    quiet = subprocess.DEVNULL
    subprocess.run(
        ["/bin/sh", "-c", '"$@" &', "sh", *command],
        stdin=quiet,
        stdout=quiet,
        stderr=quiet,
        check=True,
        timeout=10,
    )


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def _write_if_new(path: str, text: str, mode: int) -> None:
    """Write a small file of the system, whole or not at all, unless it says so already."""
    if _read(path) == text:
        return
    temporary = f"{path}.mlvm-new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as stream:
        os.fchmod(fd, mode)
        stream.write(text)
    try:
        os.rename(temporary, path)
    except OSError:  # a mount point (systemd binds a transient machine id): write through it
        os.unlink(temporary)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
