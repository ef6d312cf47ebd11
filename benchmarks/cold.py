"""A cold start, from nothing running to the first cell: mlvm against the stock way of doing the same.

`python -m benchmarks.cold --runs 5 --out FILE` builds both guests, starts each in turn as often as asked, and writes
one JSON object a run. A sample holds seconds since its start, and `cpu`, the processor seconds that QEMU has used by
then, which say more than the clock on a host that others use too.

The stock way is what one would do by hand: a Debian by mmdebstrap with its own initramfs, all of systemd's defaults,
openssh-server and a venv with the same ipykernel; an ext4 disk; started with the same QEMU, accelerator, memory and
CPUs, on the cloud flavour of the guest kernel, without a boot loader; the kernel started and tunnelled by one ssh.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import Empty

from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_client.connect import write_connection_file

from mlvm.events import SILENT, Observer
from mlvm.kernel import kernelspec
from mlvm.machine.qemu import run_record
from mlvm.machine.record import load
from mlvm.machine.table import provider_for
from mlvm.paths import Home
from mlvm.project import Project

BOX = "python-3.11"
MACHINE = "benchmark-cold"
PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
PACKAGES = (
    "systemd-sysv,udev,dbus,openssh-server,iproute2,sudo,ca-certificates,python3-venv,initramfs-tools,"
    "linux-image-cloud-amd64"
)
Sample = dict[str, float | str]
#: What a person types to begin with.
CELL = "1 + 1"
DEADLINE = 600.0


class Clock:
    """Seconds since the start, and QEMU's processor seconds, under names."""

    def __init__(self, kind: str) -> None:
        self.began = time.monotonic()
        self.sample: Sample = {"kind": kind}

    def mark(self, name: str, pid: int | None) -> None:
        """Note that `name` has come to pass."""
        self.sample[name] = round(time.monotonic() - self.began, 3)
        if pid is not None:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks = int(fields[11]) + int(fields[12])
            self.sample[f"{name}_cpu"] = ticks / os.sysconf("SC_CLK_TCK")


def first_cell(client: BlockingKernelClient, ended: Callable[[], object]) -> None:
    """Run a cell in a kernel that is just starting, and wait for its reply."""
    client.start_channels(hb=False)
    try:
        asked = client.execute(CELL)
        began = time.monotonic()
        while ended() is None and time.monotonic() - began < DEADLINE:
            try:
                reply = client.get_shell_msg(timeout=1)
            except Empty:
                continue
            if reply["parent_header"].get("msg_id") == asked and reply["content"]["status"] == "ok":
                return
        raise SystemExit("the cell was not run")
    finally:
        client.stop_channels()


# ------------------------------------------------------------------------------------------------------------ mlvm


class Mlvm:
    """Our way, on an image that is built."""

    def __init__(self) -> None:
        self.home = Home.find()
        self.project = Project.find(BOX, Path.cwd(), home=self.home)
        self.project.build(observer=SILENT)
        prefix = Path(tempfile.mkdtemp(prefix="mlvm-benchmark-"))
        os.environ["JUPYTER_PATH"] = str(prefix / "share" / "jupyter")
        spec = self.project.spec()
        kernelspec.install(spec, self.project.folder, name=MACHINE, machine=MACHINE, prefix=prefix)

    def sample(self) -> Sample:
        """Bring up a new machine and run a cell in it."""
        clock = Clock("mlvm")
        stages: dict[str, float] = {}

        class Tape(Observer):
            def stage_finished(self, stage: str, seconds: float, detail: str = "") -> None:
                stages[f"stage {stage}"] = round(seconds, 3)

        try:
            record = self.project.up(MACHINE, observer=Tape())
            run = run_record.load(record)
            pid = run.pid if run else None
            clock.mark("reachable", pid)
            manager = KernelManager(kernel_name=MACHINE)
            manager.start_kernel()
            first_cell(manager.client(), lambda: None if manager.is_alive() else 1)
            clock.mark("cell", pid)
        finally:
            if (made := load(self.home, MACHINE)) is not None:
                provider_for(made).destroy(made, observer=SILENT)
        return clock.sample | stages


# ----------------------------------------------------------------------------------------------------------- stock


class Stock:
    """The stock way; `folder` keeps what was built of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
        lock = Project.find(BOX, Path.cwd(), home=Home.find()).lock()
        assert lock is not None
        wanted = [f"{package.name}=={package.version}" for package in lock.python.packages]
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

    def sample(self) -> Sample:
        """Boot the disk, changes thrown away, and run a cell in a kernel reached by ssh."""
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ssh_port, *local = free_ports(6)
            clock = Clock("stock")
            qemu = stack.enter_context(subprocess.Popen(self._command(ssh_port, scratch / "console.log")))
            stack.callback(qemu.kill)
            remote = dict(zip(PORTS, range(50001, 50006), strict=True))
            path, connection = write_connection_file(
                str(scratch / "remote.json"), ip="127.0.0.1", key=os.urandom(16).hex().encode(), **remote
            )
            ssh = self._ssh(ssh_port)
            while subprocess.run([*ssh, "true"], capture_output=True, check=False).returncode:
                if qemu.poll() is not None or time.monotonic() - clock.began > DEADLINE:
                    raise SystemExit("the stock guest does not boot")
                time.sleep(0.1)
            clock.mark("reachable", qemu.pid)
            tunnels = [w for here, there in zip(local, remote.values(), strict=True)
                       for w in ("-L", f"127.0.0.1:{here}:127.0.0.1:{there}")]  # fmt: skip
            file = "/run/kernel.json"
            start = f"umask 077; cat > {file} && exec /opt/venv/bin/python -m ipykernel_launcher -f {file}"
            with Path(path).open("rb") as content:
                kernel = subprocess.Popen(
                    [*ssh[:-1], *tunnels, ssh[-1], start],
                    stdin=content, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
            stack.callback(kernel.kill)
            client = BlockingKernelClient()
            ports = dict(zip(PORTS, local, strict=True))
            client.load_connection_info({**connection, **ports})
            first_cell(client, kernel.poll)
            clock.mark("cell", qemu.pid)
            return clock.sample

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


def samples(runs: int, folder: Path) -> Iterator[Sample]:
    """Yield samples of every way in turn, so that a busy hour of the host touches all alike."""
    ways: list[Callable[[], Sample]] = [Mlvm().sample, Stock(folder).sample]
    for _ in range(runs):
        for way in ways:
            yield {**way(), "load": os.getloadavg()[0]}


def summary(found: list[Sample]) -> str:
    """Say the medians, and the ratio to the baseline first."""
    lines = []
    for mark in ("cell", "cell_cpu", "reachable", "reachable_cpu"):
        medians = {
            kind: statistics.median(float(one[mark]) for one in found if one["kind"] == kind)
            for kind in ("mlvm", "stock")
        }
        ratio = medians["mlvm"] / medians["stock"]
        lines.append(
            f"{mark:<14} {ratio:5.2f} x stock   mlvm {medians['mlvm']:6.1f} s   stock {medians['stock']:6.1f} s"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write, sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--stock", type=Path, required=True, help="a folder for the stock guest, kept between runs"
    )
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    version = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout
    host = {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "qemu": version.splitlines()[0],
        "accelerator": "tcg",
    }
    found = []
    for sample in samples(arguments.runs, arguments.stock):
        found.append(sample)
        print(json.dumps(sample), flush=True)
        arguments.out.write_text(json.dumps({"host": host, "samples": found}, indent=1) + "\n")
    print(summary(found))


if __name__ == "__main__":
    main()
