"""Boxes, booted on the hardware that each hypervisor shows: QEMU stands in for the hypervisor, never for the disk.

Each boots from the file that was exported for it, up to a Jupyter kernel that answers, by ssh with the host key
checked: keys come from the seed that the Vagrantfile makes.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dissect.hypervisor.descriptor.vmx import VMX
from seed_ruby import Seed, make_seed

from mlvm.box import vagrantfile
from mlvm.box.export import Exported
from mlvm.box.providers import KINDS
from mlvm.project import Project

pytestmark = [pytest.mark.boot, pytest.mark.network]

#: As long as the slowest boot under emulation on a busy host has taken, and as much again.
PATIENCE = 1500
NOBODY = 65534
OVMF = Path("/usr/share/ovmf/OVMF.fd")
KERNEL = (
    "from jupyter_client.manager import start_new_kernel as start; m, c = start(startup_timeout=600); "
    "r = c.execute_interactive('print(6 * 7)', timeout=600); m.shutdown_kernel(now=True)"
)
HARDWARE: dict[str, tuple[str, list[str]]] = {
    "libvirt": ("virtio-net-pci", ["-device", "virtio-blk-pci,drive=disk"]),
    "virtualbox": ("e1000", ["-device", "ich9-ahci,id=sata", "-device", "ide-hd,drive=disk,bus=sata.0"]),
    "vmware": ("vmxnet3", ["-device", "pvscsi,id=scsi", "-device", "scsi-hd,drive=disk,bus=scsi.0"]),
    "hyperv-1": ("e1000", ["-device", "ide-hd,drive=disk,bus=ide.0"]),
    "hyperv-2": (
        "e1000",
        ["-bios", str(OVMF), "-device", "ich9-ahci,id=sata", "-device", "ide-hd,drive=disk,bus=sata.0"],
    ),
}
#: The provider whose box is booted, the disk in it, and its format as QEMU says it.
DISKS = {
    "libvirt": ("libvirt", "root.qcow2", "qcow2"),
    "virtualbox": ("virtualbox", "box-disk001.vmdk", "vmdk"),
    "vmware": ("vmware_desktop", "disk.vmdk", "vmdk"),
    "hyperv-1": ("hyperv", "Virtual Hard Disks/disk.vhdx", "vhdx"),
    "hyperv-2": ("hyperv", "Virtual Hard Disks/disk.vhdx", "vhdx"),
}

Unpack = Callable[[str], Path]


@pytest.fixture(scope="module")
def unpacked(export: Callable[[str], Exported], tmp_path_factory: pytest.TempPathFactory) -> Unpack:
    """Unpacks a box, once."""
    folder = tmp_path_factory.mktemp("unpacked")

    def once(provider: str) -> Path:
        target = folder / provider
        if not target.exists():
            with tarfile.open(export(provider).path) as tar:
                tar.extractall(target, filter="data")
        return target

    return once


@pytest.fixture(scope="module")
def seed(shipped_project: Project, tmp_path_factory: pytest.TempPathFactory) -> Seed:
    lock = shipped_project.lock()
    assert lock is not None
    return make_seed(
        vagrantfile.render(shipped_project.spec(), lock, boxes={}), tmp_path_factory.mktemp("project")
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def booted(hardware: str, disk: Path, kind: str, seed: Seed, log: Path) -> Iterator[int]:
    """Boot a disk, unchanged, and yield the port of its ssh."""
    card, devices = HARDWARE[hardware]
    port = free_port()
    command = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "pc", "-cpu", "max", "-m", "1024",
        "-smp", "2", "-display", "none", "-nodefaults", "-serial", f"file:{log}",
        "-drive", f"if=none,id=disk,file={disk},format={kind},snapshot=on",
        "-drive", f"if=none,id=seed,file={seed.disc},format=raw,readonly=on,media=cdrom",
        "-device", "ide-cd,drive=seed,bus=ide.1",
        "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device", f"{card},netdev=net", *devices,
    ]  # fmt: skip
    with subprocess.Popen(command) as child:
        try:
            yield port
        finally:
            child.kill()


def said_by(seed: Seed, port: int, command: str) -> str:
    """Return what a command in the machine says; before the machine is there, ask again."""
    deadline = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run(seed.ssh(port, command), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout.strip()
        assert "HOST IDENTIFICATION HAS CHANGED" not in done.stderr
        assert time.monotonic() < deadline, (done.stdout, done.stderr)
        time.sleep(5)


def finds(folder: Path, hardware: str) -> tuple[Path, str]:
    _, name, kind = DISKS[hardware]
    return folder / name, kind


#: The others, minutes each under emulation, are for `make test-boxes`.
TELLING = {"libvirt"}


@pytest.mark.parametrize(
    "hardware",
    [pytest.param(name, marks=[pytest.mark.heavy] * (name not in TELLING)) for name in HARDWARE],
)
def test_a_kernel_answers_in_the_box(hardware: str, unpacked: Unpack, seed: Seed, tmp_path: Path) -> None:
    disk, kind = finds(unpacked(DISKS[hardware][0]), hardware)
    with booted(hardware, disk, kind, seed, tmp_path / "console") as port:
        assert said_by(seed, port, f'python -c "{KERNEL}"').splitlines()[-1] == "42"


def test_the_same_lock_gives_the_same_box(
    export: Callable[[str], Exported], shipped_project: Project, tmp_path: Path
) -> None:
    """By another user, with another home, umask, time zone, language and number of CPUs, and without a network."""
    home = tmp_path / "home"
    (home / "cache" / "store").mkdir(parents=True)
    (home / "cache" / "store" / "blobs").symlink_to((shipped_project.home.store / "blobs").resolve())
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    program = (
        "import sys; from pathlib import Path; from mlvm.paths import Home; from mlvm.project import Project; "
        "p = Project(folder=Path(sys.argv[1]), home=Home.find()); "
        "print(p.export_box('libvirt', output=Home.find().data / 'x.box', frozen=True).sha256)"
    )
    done = subprocess.run(
        [
            "unshare", "--net", "sh", "-c", 'umask 077 && exec "$@"', "sh",
            "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
            "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
            "taskset", "--cpu-list", "0", sys.executable, "-c", program, shipped_project.folder,
        ],
        env={"MLVM_HOME": str(home), "TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8", "SOURCE_DATE_EPOCH": "1",
             "PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == export("libvirt").sha256


@pytest.mark.parametrize(
    "hardware",
    [
        "virtualbox",
        pytest.param("vmware", marks=pytest.mark.heavy),
        pytest.param("hyperv-2", marks=pytest.mark.heavy),
    ],
)
def test_all_boxes_hold_the_same_disk(hardware: str, unpacked: Unpack) -> None:
    first, (second, kind) = unpacked("libvirt") / "root.qcow2", finds(unpacked(DISKS[hardware][0]), hardware)
    compared = subprocess.run(
        ["qemu-img", "compare", "-f", "qcow2", "-F", kind, first, second], capture_output=True, check=False
    )
    assert compared.stdout.decode().splitlines()[-1] == "Images are identical."


def test_dissect_reads_vmware_s_description(unpacked: Unpack) -> None:
    assert VMX.parse((unpacked("vmware_desktop") / "box.vmx").read_text()).disks() == ["disk.vmdk"]


def test_every_kind_of_box_was_exported(export: Callable[[str], Exported]) -> None:
    for provider in KINDS:
        found = export(provider)
        assert hashlib.sha256(found.path.read_bytes()).hexdigest() == found.sha256
