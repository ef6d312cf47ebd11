"""Hosts with GPUs as they are in the world: what can be given to a machine, what is in the way, what mends it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import loopback_record

from machine.pci_tree import (
    AUDIO,
    BRIDGE,
    GPU,
    NIC,
    NVME,
    SERVER_GPU,
    USB,
    USB_C,
    VGA_INTEL,
    VGA_SERVER,
    Host,
)
from mlvm.errors import MachineError
from mlvm.events import SILENT
from mlvm.lock.document import CudaRecord
from mlvm.machine import gpu, pci
from mlvm.machine.check import Check, Grade
from mlvm.machine.qemu.provider import QemuProvider
from mlvm.paths import Home
from mlvm.spec.document import GIB, MachineShape

CUDA = CudaRecord(version="12.1", cudnn="8.9.2.26", driver="525", arch="5.0", table="2026-11-24")
ANY = "0000:01:00.0"
BIND = "sudo modprobe vfio-pci && sudo driverctl set-override"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def checked(host: Host, address: str = ANY) -> Check:
    return {check.name: check for check in gpu.examine(host.root)}[f"gpu {address}"]


def given(host: Host, count: int = 1, locked: int = 64 * GIB) -> tuple[str, ...]:
    return gpu.choose(count, memory=2 * GIB, root=host.root, locked=locked)


def test_no_gpu_at_all(host: Host) -> None:
    host.add("0000:00:1f.6", NIC, "e1000e", 5)

    assert gpu.examine(host.root) == [
        Check(name="gpu", grade=Grade.OK, found="no NVIDIA GPU; CUDA boxes run on the CPU here")
    ]


def test_a_host_without_pci(tmp_path: Path) -> None:
    assert [check.grade for check in gpu.examine(tmp_path)] == [Grade.OK]


def test_a_workstation_that_is_ready(host: Host) -> None:
    host.add("0000:00:01.0", BRIDGE, "pcieport", 1)
    host.add(ANY, GPU, "vfio-pci", 1).add("0000:01:00.1", AUDIO, "vfio-pci", 1).vfio(1)

    assert checked(host) == Check(name=f"gpu {ANY}", grade=Grade.OK, found="0x2204 can be given to a machine")
    assert given(host) == (ANY, "0000:01:00.1")


def test_a_card_with_four_functions(host: Host) -> None:
    host.add(ANY, GPU, "vfio-pci", 1).add("0000:01:00.1", AUDIO, "vfio-pci", 1)
    host.add("0000:01:00.2", USB, "xhci_hcd", 1).add("0000:01:00.3", USB_C, "nvidia-gpu", 1).vfio(1)

    assert checked(host).found == "0000:01:00.2 (USB, on xhci_hcd) must be bound to vfio-pci"
    assert checked(host).mend == f"{BIND} 0000:01:00.2 vfio-pci"


def test_a_laptop_whose_screen_is_on_the_cpus_own_graphics(host: Host) -> None:
    host.add("0000:00:02.0", VGA_INTEL, "i915", 0, boot=True).add(ANY, GPU, "nvidia", 1).nvidia("550.54.14")

    assert checked(host).found == f"{ANY} (GPU, on nvidia) must be bound to vfio-pci"
    assert checked(host).mend == f"{BIND} {ANY} vfio-pci"


def test_a_desktop_whose_screen_is_on_its_one_gpu(host: Host) -> None:
    host.add(ANY, GPU, "nvidia", 1, boot=True)

    assert checked(host).found == "the host's screen is on it"
    assert checked(host).mend.startswith("switch on the CPU's own graphics")


def test_a_desktop_that_could_use_its_other_gpu_first(host: Host) -> None:
    host.add("0000:00:02.0", VGA_INTEL, "i915", 0).add(ANY, GPU, "nvidia", 1, boot=True)

    assert checked(host).mend == "make 0000:00:02.0 the first display in the firmware"


def test_the_audio_function_is_forgotten(host: Host) -> None:
    host.add(ANY, GPU, "vfio-pci", 1).add("0000:01:00.1", AUDIO, "snd_hda_intel", 1).vfio(1)

    assert checked(host).found == "0000:01:00.1 (audio, on snd_hda_intel) must be bound to vfio-pci"


def test_a_disk_in_the_group(host: Host) -> None:
    host.add("0000:00:01.0", BRIDGE, "pcieport", 1).add(ANY, GPU, "vfio-pci", 1).add(
        "0000:02:00.0", NVME, "nvme", 1
    )

    assert checked(host).found == "IOMMU group 1 holds it together with 0000:02:00.0 (NVMe disk, on nvme)"
    assert checked(host).mend.startswith("put the card into another slot")


def test_two_gpus_in_one_group_are_given_together(host: Host) -> None:
    host.add(ANY, GPU, "vfio-pci", 1).add("0000:02:00.0", GPU, "vfio-pci", 1).vfio(1)

    assert given(host) == (ANY, "0000:02:00.0")


def test_two_gpus_in_one_group_one_of_them_in_use(host: Host) -> None:
    host.add(ANY, GPU, "vfio-pci", 1).add("0000:02:00.0", GPU, "nvidia", 1).vfio(1)

    assert checked(host).found == "0000:02:00.0 (GPU, on nvidia) must be bound to vfio-pci"


def test_a_server_with_two_of_four_gpus_free(host: Host) -> None:
    host.add("0000:03:00.0", VGA_SERVER, "ast", 0, boot=True)
    buses = {"01": "nvidia", "02": "vfio-pci", "82": "nvidia", "83": "vfio-pci"}
    for group, (bus, driver) in enumerate(buses.items()):
        host.add(f"0000:{bus}:00.0", SERVER_GPU, driver, 10 + group)
    host.vfio(11, 13)

    assert given(host, 2) == ("0000:02:00.0", "0000:83:00.0")
    with pytest.raises(MachineError) as error:
        given(host, 3)
    assert error.value.message == "the machine wants 3 GPUs of this host, and 2 can be given"


def test_no_iommu(tmp_path: Path) -> None:
    host = Host(tmp_path, iommu=False).add(ANY, GPU, "nouveau")
    iommu, one = gpu.examine(host.root)[:2]

    assert (iommu.grade, iommu.found) == (Grade.WARN, "not in use: no GPU can be given to a machine")
    assert "`intel_iommu=on iommu=pt`" in iommu.mend
    assert one.found == "it is in no IOMMU group"


def test_no_iommu_on_amd(tmp_path: Path) -> None:
    host = Host(tmp_path, iommu=False).add(ANY, GPU, "nouveau")
    host.write("proc/cpuinfo", "vendor_id\t: AuthenticAMD\n")

    assert "`iommu=pt`" in gpu.check_iommu(host.root).mend


def test_a_gpu_with_virtual_functions(host: Host) -> None:
    host.add("0000:3b:00.0", SERVER_GPU, "nvidia", 20, functions=2)
    host.add("0000:3b:00.4", SERVER_GPU, "vfio-pci", 21, physical="0000:3b:00.0")
    host.add("0000:3b:00.5", SERVER_GPU, "nvidia", 22, physical="0000:3b:00.0").vfio(21)

    assert checked(host, "0000:3b:00.0").found == "2 virtual functions of it are in use"
    assert given(host) == ("0000:3b:00.4",)


def test_a_gpu_that_is_split_into_instances(host: Host) -> None:
    host.add(ANY, SERVER_GPU, "nvidia", 1).nvidia("550.54.14", mig=True)

    assert checked(host).found == "it is split into MIG instances, which VFIO cannot give away"
    assert checked(host).mend == "sudo nvidia-smi -mig 0"


def test_a_gpu_that_cannot_be_reset(host: Host) -> None:
    host.add(ANY, GPU, "vfio-pci", 1, reset=False).vfio(1)

    assert checked(host).grade is Grade.WARN
    assert checked(host).found.endswith("so a second machine may not start without a reboot")
    assert given(host) == (ANY,)


def test_vfio_is_not_loaded(host: Host) -> None:
    host.add(ANY, GPU, "vfio-pci", 1)

    assert (checked(host).found, checked(host).mend) == ("/dev/vfio/1 is missing", "sudo modprobe vfio-pci")


def test_the_group_belongs_to_root(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add(ANY, GPU, "vfio-pci", 1).vfio(1)
    node = host.root / "dev/vfio/1"
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != node)

    assert checked(host).found == "you may not use /dev/vfio/1"
    assert checked(host).mend == "sudo chown $USER /dev/vfio/1"


def test_memory_that_may_not_be_pinned(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add(ANY, GPU, "vfio-pci", 1).vfio(1)
    monkeypatch.setattr(os, "getuid", lambda: 1000)

    with pytest.raises(MachineError) as error:
        given(host, locked=8 << 20)

    assert error.value.message == "a GPU needs all of the machine's 2 GiB pinned, and you may lock 0.01 GiB"


@pytest.mark.parametrize(
    ("free", "found"),
    [(0, "0 free of 2 MiB; 2 GiB would need 1024. Not needed, only quicker"), (2048, "2048 free of 2 MiB")],
)
def test_huge_pages(host: Host, free: int, found: str) -> None:
    host.write("proc/meminfo", f"HugePages_Free:   {free}\nHugepagesize:    2048 kB\n")

    assert gpu.check_huge_pages(host.root, 2 * GIB).found == found


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 2024\nGCC version:\n",
            "470.256.02",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n", "580.65.06"),
        ("", ""),
    ],
)
def test_the_driver_says_its_version_where_sysfs_does_not(host: Host, text: str, version: str) -> None:
    host.write("proc/driver/nvidia/version", text)

    assert pci.nvidia_driver(host.root) == version


@pytest.mark.parametrize(
    ("driver", "grade"),
    [
        ("470.256.02", Grade.FAIL),
        ("525.60.13", Grade.OK),
        ("525", Grade.OK),
        ("?", Grade.WARN),
    ],
)
def test_the_driver_and_what_the_lock_needs(driver: str, grade: Grade) -> None:
    check = gpu.check_driver(driver, CUDA)

    assert check is not None
    assert check.grade is grade


def test_a_driver_that_is_too_old_is_named() -> None:
    assert gpu.check_driver("470.256.02", CUDA) == Check(
        name="nvidia driver",
        grade=Grade.FAIL,
        found="470.256.02 is older than 525, which CUDA 12.1 of the lock needs",
        mend="install driver 525 or newer",
    )


def test_an_old_driver_is_only_worth_a_note_without_a_gpu_in_the_machine(host: Host) -> None:
    host.add(ANY, GPU, "nvidia", 1).nvidia("470.256.02")

    note = gpu.require(MachineShape(), CUDA, host.root)

    assert note == (
        "the host's NVIDIA driver 470.256.02 is older than 525, which CUDA 12.1 of the lock needs;"
        " this machine has no GPU, and uses the CPU"
    )


def test_a_machine_that_wants_a_gpu_is_refused_with_every_reason(host: Host) -> None:
    host.add(ANY, GPU, "nvidia", 1).nvidia("470.256.02")

    with pytest.raises(MachineError) as error:
        gpu.require(MachineShape(gpu=1), CUDA, host.root)

    assert error.value.message == "the machine wants 1 GPU of this host, and none can be given"
    assert error.value.details == (
        f"gpu {ANY}: {ANY} (GPU, on nvidia) must be bound to vfio-pci\n"
        "nvidia driver: 470.256.02 is older than 525, which CUDA 12.1 of the lock needs"
    )
    assert error.value.hint == f"{BIND} {ANY} vfio-pci"


def test_a_machine_that_wants_a_gpu_where_there_is_none(host: Host) -> None:
    with pytest.raises(MachineError) as error:
        gpu.require(MachineShape(gpu=1), CUDA, host.root)

    assert (error.value.details, error.value.hint) == ("no NVIDIA GPU is here", "`gpu: 0` in `machine`")


def test_this_host_is_looked_at() -> None:
    assert all(check.found for check in gpu.examine())


@pytest.mark.parametrize(("verb", "what"), [("suspend", "suspended"), ("snapshot", "kept as a snapshot")])
def test_a_machine_with_a_gpu_has_no_state_to_save(verb: str, what: str, home: Home) -> None:
    record = replace(loopback_record(home, "fast"), provider="qemu", shape=MachineShape(gpu=1))
    record.folder.mkdir(parents=True)
    more = {"snapshot": ("before",)}.get(verb, ())

    with pytest.raises(MachineError) as error:
        getattr(QemuProvider(), verb)(record, *more, observer=SILENT)

    assert error.value.message == f"a machine with a GPU cannot be {what}"


def test_a_machine_with_a_gpu_needs_no_warm_state(home: Home) -> None:
    record = replace(loopback_record(home, "fast"), shape=MachineShape(gpu=1))

    assert QemuProvider().has_warm(record, object())  # type: ignore[arg-type]
