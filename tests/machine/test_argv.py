"""The command line as whole lists: whoever changes it sees here what he changed."""

from __future__ import annotations

import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvm.errors import MlvmError
from mlvm.image.document import Artifact, Image
from mlvm.machine.qemu import argv
from mlvm.machine.qemu.host import Accelerator, HostProbe
from mlvm.machine.record import Record
from mlvm.paths import Home
from mlvm.spec.document import GIB, MachineShape, PortForward


def artifact(name: str, suffix: str = ".erofs") -> Artifact:
    return Artifact(name=name, id="0" * 64, path=Path(f"/store/{name}{suffix}"), sha256="1" * 64, size=1)


HOST = HostProbe(
    qemu="/usr/bin/qemu-system-x86_64",
    qemu_version="7.2.22",
    page_size=4096,
    cpus=8,
    memory=16 * GIB,
    boot_id="boot",
)
IMAGE = Image(
    id="i" * 64,
    name="box",
    python="3.11",
    debian="bookworm",
    kernel_release="6.1",
    layers=(artifact("system"), artifact("agent")),
    vmlinuz=artifact("vmlinuz", ""),
    initramfs=artifact("initramfs", ".cpio"),
    tools=Path("/store/tools"),
)
RECORD = Record(
    name="box",
    provider="qemu",
    image_id=IMAGE.id,
    project="/home/me/project",
    shape=MachineShape(cpus=3, memory=GIB),
    ports=(PortForward(guest=8888, host=8888),),
    env=(("TOKEN", "secret"),),
    home=Home(data=Path("/data"), cache=Path("/cache"), runtime=Path("/run/mlvm")),
)
LAUNCH = argv.Launch(record=RECORD, image=IMAGE, host=HOST, accelerator=Accelerator.TCG)
LOG = "logfile=/data/machines/box/console.log,logappend=off"
SOCKETS = "/run/mlvm/26f8567f2569"
DOORS = "guestfwd=tcp:10.0.2.4:2049-chardev:share,guestfwd=tcp:10.0.2.4:20048-chardev:mount"
NETWORK_WORD = "mlvm.network=10.0.2.15,255.255.255.0,10.0.2.2"
MORE = "systemd.show_status=error mitigations=off cryptomgr.notests=1"


def test_the_whole_line() -> None:
    agent_ports = [
        word
        for number in range(8)
        for word in (
            *("-chardev", f"socket,id=agent{number},path={SOCKETS}/agent-{number}.sock,server=on,wait=off"),
            *("-device", f"virtserialport,chardev=agent{number},name=mlvm.{number},nr={number + 1}"),
        )
    ]
    assert argv.command_line(LAUNCH) == [
        "/usr/bin/qemu-system-x86_64",
        *("-name", "guest=mlvm-box"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-machine", "q35,memory-backend=ram,vmport=off,usb=off"),
        *(
            "-accel",
            "tcg,thread=multi,tb-size=192",
            "-cpu",
            "max,-erms,-fsrm",
            "-rtc",
            "base=utc",
            "-no-reboot",
        ),
        *("-smp", "3"),
        *("-object", "memory-backend-ram,id=ram,size=1024M", "-m", "1024M"),
        *("-kernel", "/store/vmlinuz", "-initrd", "/store/initramfs.cpio"),
        "-append",
        f"mlvm.layers=system,agent {NETWORK_WORD} console=ttyS0 panic=-1 net.ifnames=0 loglevel=6 {MORE}",
        *(
            "-blockdev",
            "driver=file,filename=/store/system.erofs,node-name=file-system,read-only=on,locking=off",
        ),
        *("-blockdev", "driver=raw,file=file-system,node-name=system,read-only=on"),
        *("-device", "virtio-blk-pci,drive=system,serial=system"),
        *(
            "-blockdev",
            "driver=file,filename=/store/agent.erofs,node-name=file-agent,read-only=on,locking=off",
        ),
        *("-blockdev", "driver=raw,file=file-agent,node-name=agent,read-only=on"),
        *("-device", "virtio-blk-pci,drive=agent,serial=agent"),
        "-blockdev",
        "driver=file,filename=/data/machines/box/overlay.img,node-name=file-overlay,discard=unmap,locking=on",
        "-blockdev",
        "driver=raw,file=file-overlay,node-name=overlay,discard=unmap,detect-zeroes=unmap",
        *("-device", "virtio-blk-pci,drive=overlay,serial=overlay"),
        *("-chardev", f"socket,id=share,path={SOCKETS}/share.sock,server=on,wait=off"),
        *("-chardev", f"socket,id=mount,path={SOCKETS}/mount.sock,server=on,wait=off"),
        *("-netdev", f"user,id=net,restrict=off,ipv6=off,{DOORS}"),
        *("-device", "virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile="),
        *("-device", "virtio-rng-pci", "-device", "vmgenid,guid=auto"),
        "-chardev",
        f"socket,id=console,path={SOCKETS}/console.sock,server=on,wait=off,{LOG}",
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci,max_ports=9", *agent_ports),
        *("-chardev", f"socket,id=monitor,path={SOCKETS}/qmp.sock,server=on,wait=off"),
        *("-mon", "chardev=monitor,mode=control"),
    ]


def test_a_resumed_machine_waits_for_its_state() -> None:
    assert argv.command_line(replace(LAUNCH, incoming=True)) == [
        *argv.command_line(LAUNCH), "-incoming", "defer"
    ]  # fmt: skip


def test_ram_is_a_file_that_is_written_while_it_is_made() -> None:
    ram = argv.RamFile(path=Path("/store/a,b"), shared=True)

    assert argv.memory_args(1 << 30, ram, "9.2.0") == [
        *("-object", "memory-backend-file,id=ram,size=1024M,mem-path=/store/a,,b,share=on"),
        *("-m", "1024M"),
    ]


@pytest.mark.parametrize(
    ("version", "more"),
    [
        ("6.2.0", ""),
        ("7.2.22", ""),
        ("8.1.5", ""),
        ("8.2.0", ",readonly=on,rom=off"),
        ("10.0.2", ",readonly=on,rom=off"),
    ],
)
def test_ram_that_many_map_is_opened_for_reading_where_that_can_be_said(version: str, more: str) -> None:
    ram = argv.RamFile(path=Path("/store/ram"), shared=False)

    assert argv.memory_args(1 << 30, ram, version)[1] == (
        f"memory-backend-file,id=ram,size=1024M,mem-path=/store/ram,share=off{more}"
    )


def test_kvm_takes_the_hosts_cpu_and_its_faults_are_mitigated() -> None:
    line = argv.command_line(replace(LAUNCH, accelerator=Accelerator.KVM))

    assert argv.machine_args(Accelerator.KVM)[2:6] == ["-accel", "kvm", "-cpu", "host"]
    assert "mitigations=off" not in " ".join(line)


def test_network_none_lets_only_forwards_pass() -> None:
    assert argv.network_args("none", "52:54:00:00:00:01")[1] == f"user,id=net,restrict=on,ipv6=off,{DOORS}"


def test_a_guest_that_has_booted_needs_the_beginning_of_its_kernel_only() -> None:
    ram = argv.RamFile(path=Path("/warm/ram"), shared=False, booted=Path("/warm/vmlinuz"))

    assert argv.kernel_args(IMAGE, Accelerator.TCG, (), ram)[:2] == ["-kernel", "/warm/vmlinuz"]
    assert argv.kernel_args(IMAGE, Accelerator.TCG, (), replace(ram, booted=None))[1] == "/store/vmlinuz"


def test_more_words_for_the_guest_kernel() -> None:
    assert argv.kernel_args(IMAGE, Accelerator.TCG, ("debug", "nosmp"))[-1].endswith("=1 debug nosmp")


def test_nothing_of_the_environment_is_on_the_line() -> None:
    assert "secret" not in " ".join(argv.command_line(LAUNCH))


def test_nothing_listens_on_the_network() -> None:
    assert not [word for word in argv.command_line(LAUNCH) if "hostfwd" in word or "tcp" in word.split(":")]


def test_a_socket_path_that_is_too_long() -> None:
    home = replace(RECORD.home, runtime=Path("/" + "long/" * 25))

    with pytest.raises(MlvmError, match="longer than 103 bytes"):
        argv.command_line(replace(LAUNCH, record=replace(RECORD, home=home)))


@pytest.mark.boot
def test_hostile_paths_reach_qemu_unharmed(tmp_path: Path) -> None:
    """QEMU itself opens what we name, commas, spaces, quotes and all."""
    folder = tmp_path / "a,b=c d'e\"f,,g"
    folder.mkdir()
    disk = folder / "disk,read-only=on.img"
    disk.write_bytes(bytes(1024 * 1024))
    monitor = folder / "m,n.sock"
    command = [
        "qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "none",
        *argv.layer_args(replace(artifact("layer"), path=disk))[:4], *argv.monitor_args(monitor),
    ]  # fmt: skip
    child = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            for _ in range(200):
                try:
                    client.connect(str(monitor))
                    break
                except OSError:
                    assert child.poll() is None, child.communicate()[1]
                    time.sleep(0.02)
            client.settimeout(5)
            assert b"QMP" in client.recv(4096)
    finally:
        child.kill()
        child.communicate()


@given(st.text())
def test_no_value_can_add_an_option(value: str) -> None:
    """QEMU splits at a comma that is not doubled: none of a value's is left single."""
    text = argv.option("a", key=value)
    parts = text.replace(",,", "").split(",")

    assert len(parts) == 2
    assert text.removeprefix("a,key=").replace(",,", ",") == value


def test_a_forks_disk_builds_on_those_of_its_forks() -> None:
    """Each by name and format, the one beneath all raw; only the machine's own is written to."""
    forked = replace(LAUNCH, record=replace(RECORD, forks=("near", "far")))

    line = argv.command_line(forked)

    own = line.index(
        "driver=file,filename=/data/machines/box/overlay.img,node-name=file-overlay,discard=unmap,locking=on"
    )
    assert line[own - 9 : own + 3] == [
        *(
            "-blockdev",
            "driver=file,filename=/data/forks/far/disk.img,node-name=file-overlay-2,read-only=on,locking=off",
        ),
        *("-blockdev", "driver=raw,file=file-overlay-2,node-name=overlay-2,read-only=on"),
        *(
            "-blockdev",
            "driver=file,filename=/data/forks/near/disk.img,node-name=file-overlay-1,read-only=on,locking=off",
        ),
        *(
            "-blockdev",
            "driver=qcow2,file=file-overlay-1,node-name=overlay-1,read-only=on,backing=overlay-2",
        ),
        "-blockdev",
        line[own],
        "-blockdev",
        "driver=qcow2,file=file-overlay,node-name=overlay,discard=unmap,detect-zeroes=unmap,backing=overlay-1",
    ]


def test_whoever_only_receives_a_guest_does_not_run_it() -> None:
    assert argv.command_line(replace(LAUNCH, incoming=True, asleep=True))[-3:] == ["-incoming", "defer", "-S"]


def test_a_card_of_the_host_with_its_functions() -> None:
    launch = replace(LAUNCH, gpus=("0000:01:00.0", "0000:01:00.1", "0000:3b:00.4"))

    assert argv.command_line(launch) == [
        *argv.command_line(LAUNCH),
        *("-device", "pcie-root-port,id=gpu0,bus=pcie.0,chassis=1"),
        *("-device", "vfio-pci,host=0000:01:00.0,bus=gpu0,addr=0.0,multifunction=on"),
        *("-device", "vfio-pci,host=0000:01:00.1,bus=gpu0,addr=0.1"),
        *("-device", "pcie-root-port,id=gpu1,bus=pcie.0,chassis=2"),
        *("-device", "vfio-pci,host=0000:3b:00.4,bus=gpu1,addr=0.0"),
    ]
