"""The VBoxManage stand-in refuses what VirtualBox would: it may not be easier to please than the real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import vboxmanage
from vbox_appliance import VBoxError, read
from vbox_machine import Machine

from mlvm.box import hardware
from mlvm.box.deflate import Deflater
from mlvm.box.recipe import Recipe
from mlvm.box.vmdk import wrap_sparse, wrap_stream

NAME = "box-disk001.vmdk"


@pytest.fixture
def ovf(disk: Recipe, deflater: Callable[[int], Deflater], tmp_path: Path) -> Path:
    """A small appliance as a box has it."""
    made = wrap_stream(disk, name=NAME, deflater=deflater(1))
    made.write(tmp_path / NAME)
    text = hardware.ovf("box", disk=NAME, disk_size=disk.size, file_size=made.size)
    (tmp_path / "box.ovf").write_bytes(text)
    return tmp_path / "box.ovf"


def test_it_reads_what_a_box_says(ovf: Path, disk: Recipe) -> None:
    found = read(ovf)
    assert (found.name, found.cpus, found.memory) == ("box", hardware.CPUS, hardware.MEMORY_MIB)
    assert (found.disk.name, found.capacity, found.disk_port) == (NAME, disk.size, 0)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (f'href="{NAME}"', 'href="../other.vmdk"', "Could not open the medium"),
        (f'href="{NAME}"', 'href="missing.vmdk"', "Could not open the medium"),
        ('capacity="4', 'capacity="5', "not what the appliance says"),
        ("size=", 'size="1" old=', "another size"),
        ("#streamOptimized", "#sparse", "the disk's format"),
        ("AHCI", "PIIX4", "no AHCI controller"),
        ("E1000", "PCNet32", "no E1000"),
        ("ovf:/disk/disk1", "ovf:/disk/disk2", "is not in it"),
        ("MegaBytes", "GigaBytes", "memory in units"),
    ],
)
def test_an_appliance_that_makes_no_sense_is_refused(old: str, new: str, said: str, ovf: Path) -> None:
    text = ovf.read_text()
    assert old in text
    ovf.write_text(text.replace(old, new))
    with pytest.raises(VBoxError, match=said):
        read(ovf)


def test_a_disk_of_another_kind_is_refused(ovf: Path, disk: Recipe) -> None:
    (ovf.parent / NAME).unlink()
    made = wrap_sparse(disk, name=NAME)
    made.write(ovf.parent / NAME)
    ovf.write_bytes(hardware.ovf("box", disk=NAME, disk_size=disk.size, file_size=made.size))
    with pytest.raises(VBoxError, match="monolithicSparse"):
        read(ovf)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(
        uuid="u", name="box_1", folder=str(tmp_path), cpus=1, memory=512, mac="080027ABCDEF",
        media={0: ("hdd", "/disk.qcow2")},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["modifyvm", "u", "--no-such-thing", "1"], "Unknown option"),
        (["modifyvm", "u", "--natpf1", "a,tcp,,1,2"], "Invalid port forwarding rule"),
        (["modifyvm", "other", "--memory", "1"], "VBOX_E_OBJECT_NOT_FOUND"),
        (["controlvm", "u", "savestate"], "not currently running"),
        (["storageattach", "u", "--storagectl", "IDE", "--port", "1", "--device", "0", "--type", "dvddrive",
          "--medium", "/x"], "Could not find a controller"),
        (["storageattach", "u", "--storagectl", "SATA Controller", "--port", "1", "--device", "0", "--type",
          "dvddrive", "--medium", "/no/such.iso"], "Could not open the medium"),
        (["list", "everything"], "Unknown subcommand"),
    ],
)  # fmt: skip
def test_a_command_that_makes_no_sense_is_refused(words: list[str], said: str, machine: Machine) -> None:
    with pytest.raises(VBoxError, match=said):
        vboxmanage.COMMANDS[words[0]]({"u": machine}, words[1:])


def test_it_is_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, vboxmanage.__file__, "nonsense"],
        env={"VBOX_STANDIN": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "VBoxManage: error: Invalid command 'nonsense'\n")


@pytest.mark.boot
def test_a_machine_s_states_follow_one_another(
    ovf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a disk that nothing boots from: firmware is all that runs, and is enough to be saved and to go on."""
    monkeypatch.setattr(vboxmanage, "HOME", tmp_path / "state")
    target = tmp_path / "state/VMs/one" / NAME

    def says(*words: str) -> str:
        assert vboxmanage.main(words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    def state() -> str:
        lines = says("showvminfo", "one", "--machinereadable").splitlines()
        return next(line.split('"')[1] for line in lines if line.startswith("VMState="))

    says("import", "-n", str(ovf))
    unit = str(read(ovf).units["disk"])
    says(
        "import",
        str(ovf),
        "--vsys",
        "0",
        "--vmname",
        "one",
        "--vsys",
        "0",
        "--unit",
        unit,
        "--disk",
        str(target),
    )
    says("modifyvm", "one", "--memory", "128")
    seen = [state()]
    try:
        for words in (
            ["startvm", "one", "--type", "headless"],
            ["controlvm", "one", "pause"],
            ["controlvm", "one", "resume"],
            ["controlvm", "one", "savestate"],
            ["startvm", "one", "--type", "headless"],
            ["snapshot", "one", "take", "online"],
            ["controlvm", "one", "poweroff"],
            ["snapshot", "one", "restore", "online"],
            ["startvm", "one", "--type", "headless"],
            ["controlvm", "one", "savestate"],
            ["discardstate", "one"],
            ["snapshot", "one", "delete", "online"],
        ):
            says(*words)
            seen.append(state())
    finally:
        with vboxmanage.registry() as machines:
            machines[next(iter(machines))].power_off()
    says("unregistervm", "one", "--delete")
    assert seen == [
        "poweroff", "running", "paused", "running", "saved", "running", "running", "poweroff", "saved", "running",
        "saved", "poweroff", "poweroff",
    ]  # fmt: skip
    assert not target.parent.exists()
