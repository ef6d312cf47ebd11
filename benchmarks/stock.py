"""The stock way to a kernel in a machine, as one would do it by hand.

A Debian by mmdebstrap with its own initramfs, all of systemd's defaults, openssh-server and a venv with the same
ipykernel; an ext4 disk; started with the same QEMU, accelerator, memory and CPUs, on the cloud flavour of the guest
kernel, without a boot loader; the kernel started and tunnelled by one ssh.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

from benchmarks.first_cell import Clock, first_cell
from mlvm.lock.document import Lock

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
PACKAGES = (
    "systemd-sysv,udev,dbus,openssh-server,iproute2,sudo,ca-certificates,python3-venv,initramfs-tools,"
    "linux-image-cloud-amd64"
)
DEADLINE = 600.0


class Stock:
    """The stock way; `folder` keeps what was built of it."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.folder = folder
        self.lock = lock
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = folder / "disk.img"
        if not (folder / "built").exists():
            self._build()
            (folder / "built").touch()

    def _build(self) -> None:
        tree = self.folder / "tree"
        key = self.folder / "key"
        for old in (key, key.with_suffix(".pub")):
            old.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        if not tree.exists():
            run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(tree))
        network = "[Match]\nType=ether\n[Network]\nDHCP=yes\n"
        (tree / "etc/systemd/network/10-ether.network").write_text(network)
        run("chroot", str(tree), "systemctl", "enable", "systemd-networkd.service", "ssh.service")
        (tree / "root/.ssh").mkdir(exist_ok=True, mode=0o700)
        (tree / "root/.ssh/authorized_keys").write_text(key.with_suffix(".pub").read_text())
        (tree / "etc/resolv.conf").write_text("nameserver 10.0.2.3\n")
        (tree / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 1\n")
        run("chroot", str(tree), "python3", "-m", "venv", "--without-pip", "/opt/venv")
        site = tree / "opt/venv/lib/python3.11/site-packages"
        wanted = [f"{package.name}=={package.version}" for package in self.lock.python.packages]
        uv = [
            sys.executable,
            "-m",
            "uv",
            "pip",
            "install",
            "--quiet",
            "--target",
            str(site),
            "--only-binary",
            ":all:",
        ]
        run(
            *uv,
            "--no-deps",
            "--python-version",
            "3.11",
            "--python-platform",
            "x86_64-manylinux_2_36",
            *wanted,
        )
        run("chroot", str(tree), "python3", "-m", "compileall", "-q", "/opt/venv/lib")
        self.disk.unlink(missing_ok=True)
        run("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(self.disk), "4G")

    def sample(self) -> dict[str, float]:
        """Boot the disk, changes thrown away, and run a cell in a kernel reached by ssh."""
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (ssh_port,) = free_ports(1)
            clock = Clock()
            qemu = stack.enter_context(subprocess.Popen(self._command(ssh_port, scratch / "console.log")))
            stack.callback(qemu.kill)
            ssh = self._ssh(ssh_port)
            while subprocess.run([*ssh, "true"], capture_output=True, check=False).returncode:
                if qemu.poll() is not None or time.monotonic() - clock.began > DEADLINE:
                    raise SystemExit("the stock guest does not boot")
                time.sleep(0.1)
            clock.mark("reachable", qemu.pid)
            clock.seconds["guest"] = self._guest_seconds(ssh)
            cell_by_ssh(stack, scratch, ssh)
            clock.mark("cell", qemu.pid)
            return clock.seconds

    def _guest_seconds(self, ssh: list[str]) -> float:
        """Return the seconds from the guest kernel's start until sshd listened, by the guest's clock."""
        asked = "systemctl show ssh.service --property ActiveEnterTimestampMonotonic --value"
        said = subprocess.run([*ssh, asked], capture_output=True, check=True, text=True).stdout
        return int(said) / 1e6

    def _ssh(self, port: int) -> list[str]:
        options = {
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "BatchMode": "yes",
            "ConnectTimeout": "60",
            "LogLevel": "ERROR",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return [
            "ssh",
            "-F",
            "none",
            "-i",
            str(self.folder / "key"),
            "-p",
            str(port),
            *words,
            "root@127.0.0.1",
        ]

    def _command(self, ssh_port: int, console: Path) -> list[str]:
        boot = self.folder / "tree/boot"
        (kernel,) = boot.glob("vmlinuz-*")
        (initrd,) = boot.glob("initrd.img-*")
        return shlex.split(
            f"qemu-system-x86_64 -nodefaults -no-user-config -display none -machine q35 -accel tcg,thread=multi "
            f"-cpu max -smp 2 -m 1024M -kernel {kernel} -initrd {initrd} "
            f"-append 'root=/dev/vda rw console=ttyS0 quiet' "
            f"-drive file={self.disk},if=virtio,format=raw,snapshot=on -device virtio-rng-pci "
            f"-netdev user,id=n,hostfwd=tcp:127.0.0.1:{ssh_port}-:22 -device virtio-net-pci,netdev=n,romfile= "
            f"-serial file:{console}"
        )


def cell_by_ssh(stack: ExitStack, scratch: Path, ssh: Sequence[str]) -> None:
    """Start the venv's kernel by one ssh, through which its ports come, and run the first cell in it."""
    local, remote = free_ports(len(PORTS)), dict(zip(PORTS, range(50001, 50006), strict=True))
    path, connection = write_connection_file(
        str(scratch / "remote.json"), ip="127.0.0.1", key=os.urandom(16).hex().encode(), **remote
    )
    tunnels = [word for here, there in zip(local, remote.values(), strict=True)
               for word in ("-L", f"127.0.0.1:{here}:127.0.0.1:{there}")]  # fmt: skip
    start = "umask 077; cat > kernel.json && exec /opt/venv/bin/python -m ipykernel_launcher -f kernel.json"
    with Path(path).open("rb") as content:
        kernel = subprocess.Popen(
            [*ssh[:-1], *tunnels, ssh[-1], start],
            stdin=content, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    stack.callback(kernel.kill)
    client = BlockingKernelClient()
    client.load_connection_info({**connection, **dict(zip(PORTS, local, strict=True))})
    first_cell(client, kernel.poll)


def free_ports(count: int) -> list[int]:
    """Return ports of 127.0.0.1 that nobody listens at."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def run(*command: str) -> None:
    """Run a program that must succeed."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
