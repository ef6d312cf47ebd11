"""A stand-in for VirtualBox 7.0's VBoxManage, as far as Vagrant uses it: it reads the OVF and starts QEMU.

It is put on PATH under that name. Vagrant's own VirtualBox provider drives it, so it shows whether a box and its
Vagrantfile do what that provider wants; of VirtualBox it shows nothing. What it does not know it refuses, as the real
one would, rather than saying yes to everything. State is in $VBOX_STANDIN, with every command line (`said`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import vbox_appliance
from vbox_appliance import Appliance, VBoxError
from vbox_machine import CONTROLLER, PORTS, Machine, from_document

VERSION = "7.0.20r163906"
HOME = Path(os.environ.get("VBOX_STANDIN") or "/nonexistent")
#: Settings of `modifyvm` that change nothing that QEMU would show; noted, and that is all.
NOTED = re.compile(
    r"rtcuseutc|natdnsproxy1|natdnshostresolver1|nictype\d|cableconnected\d|ioapic|paravirtprovider|vram|"
    r"graphicscontroller|audio|usb|nested-hw-virt|groups|description"
)

Machines = dict[str, Machine]
Words = Sequence[str]


@contextmanager
def registry() -> Iterator[Machines]:
    """Hold all machines, alone; what a command changed is written, even if it failed afterwards."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "hold").open("w") as hold:
        fcntl.flock(hold, fcntl.LOCK_EX)
        kept = HOME / "machines.json"
        found = json.loads(kept.read_text()) if kept.exists() else {}
        machines = {name: from_document(one) for name, one in found.items()}
        try:
            yield machines
        finally:
            kept.with_suffix(".new").write_text(
                json.dumps({name: one.document() for name, one in machines.items()}, indent=1)
            )
            kept.with_suffix(".new").replace(kept)


def find(machines: Machines, name: str) -> Machine:
    for one in machines.values():
        if name in (one.uuid, one.name):
            return one
    raise VBoxError(
        f"Could not find a registered machine named '{name}'\n"
        "VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap"
    )


def list_(machines: Machines, words: Words) -> None:
    match list(words):
        case ["vms"]:
            for one in machines.values():
                print(f'"{one.name}" {{{one.uuid}}}')
        case ["systemproperties"]:
            print(f"API version:                     7_0\nDefault machine folder:          {HOME / 'VMs'}")
        case ["hostonlyifs" | "bridgedifs" | "dhcpservers" | "hdds"]:
            pass
        case _:
            raise VBoxError(f"Unknown subcommand: list {' '.join(words)}")


def import_(machines: Machines, words: Words) -> None:
    """Read an appliance; unless it is a dry run, register it as a machine with a copy of its disk."""
    path, options = "", {"dry": "", "vmname": "", "disk": "", "unit": ""}
    left = list(words)
    while left:
        word = left.pop(0)
        if word in {"-n", "--dry-run"}:
            options["dry"] = "yes"
        elif word in {"--vsys", "--vmname", "--unit", "--disk"}:
            options[word[2:]] = left.pop(0)
        elif word.startswith("-") or path:
            raise VBoxError(f"Invalid parameter '{word}'")
        else:
            path = word
    found = vbox_appliance.read(Path(path))
    base = HOME / "VMs" / found.name
    print(_interpreted(Path(path), found, base))
    if options["dry"]:
        return
    if options["unit"] != str(found.units["disk"]):
        raise VBoxError(f"unit {options['unit']} of the appliance is no disk")
    name, disk = options["vmname"], Path(options["disk"])
    if any(one.name == name for one in machines.values()):
        raise VBoxError(f"Machine settings file for '{name}' already exists")
    folder = HOME / "VMs" / name
    if disk.parent != folder:
        raise VBoxError(f"the disk would go to '{disk}', not into the machine's folder")
    folder.mkdir(parents=True)
    sys.stderr.write("0%...10%...")
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "qcow2", found.disk, disk], check=True)
    sys.stderr.write("90%...100%\n")
    own = str(uuid.uuid4())
    machines[own] = Machine(
        uuid=own, name=name, folder=str(folder), cpus=found.cpus, memory=found.memory, mac=_mac(),
        media={found.disk_port: ("hdd", str(disk))},
    )  # fmt: skip
    print("Successfully imported the appliance.")


def _interpreted(path: Path, found: Appliance, base: Path) -> str:
    return f"""\
Interpreting {path}...
OK.
Disks:
  vmdisk1\t{found.capacity}\t-1\t{found.disk.name}\t-1\t-1\t

Virtual system 0:
 0: Suggested OS type: "Debian_64"
 1: Suggested VM name "{found.name}"
    (change with "--vsys 0 --vmname <name>")
 2: Suggested VM group "/"
 3: Suggested VM settings file name "{base}/{found.name}.vbox"
 4: Suggested VM base folder "{base.parent}"
 {found.units["disk"]}: Hard disk image: source image={found.disk.name}, target path={found.disk.name}, \
controller={found.units["controller"]};port={found.disk_port}"""


def _mac() -> str:
    return f"080027{uuid.uuid4().int & 0xFFFFFF:06X}"


def show(machines: Machines, words: Words) -> None:
    print("\n".join(find(machines, words[0]).described()))


def modify(machines: Machines, words: Words) -> None:
    """Change the settings of a machine that is off."""
    machine, left = find(machines, words[0]), list(words[1:])
    if machine.pid is not None:
        raise VBoxError(f"The machine '{machine.name}' is already locked for a session")
    while left:
        key, value = left.pop(0).removeprefix("--"), left.pop(0)
        if re.fullmatch(r"nat-?pf1", key):
            _nat_rule(machine, value, left)
        elif key == "name":
            machine.name = value
        elif key in {"memory", "cpus"}:
            setattr(machine, key, int(value))
        elif key == "macaddress1":
            machine.mac = _mac() if value == "auto" else value
        elif nic := re.fullmatch(r"nic(\d)", key):
            machine.nics[int(nic[1])] = value
        elif NOTED.fullmatch(key):
            machine.settings[key] = value
        else:
            raise VBoxError(f"Unknown option: --{key}")


def _nat_rule(machine: Machine, value: str, left: list[str]) -> None:
    if value == "delete":
        name = left.pop(0)
        machine.forwards = [rule for rule in machine.forwards if rule[0] != name]
        return
    rule = value.split(",")
    if len(rule) != 6 or rule[1] not in {"tcp", "udp"}:
        raise VBoxError(f"Invalid port forwarding rule: {value}")
    if rule[0] in {one[0] for one in machine.forwards}:
        raise VBoxError("A NAT rule of this name already exists")
    machine.forwards.append(rule)


def attach(machines: Machines, words: Words) -> None:
    """Put a disc into a drive, or take it out."""
    machine = find(machines, words[0])
    options = dict(zip(words[1::2], words[2::2], strict=True))
    port = int(options["--port"])
    if options["--storagectl"] != CONTROLLER or port >= PORTS or options["--device"] != "0":
        raise VBoxError(f"Could not find a controller named '{options['--storagectl']}' with such a port")
    if options["--medium"] == "none":
        machine.media.pop(port, None)
        return
    medium = Path(options["--medium"])
    if options["--type"] != "dvddrive" or not medium.is_file() or medium.stat().st_size % 2048:
        raise VBoxError(f"Could not open the medium '{medium}' (VERR_FILE_NOT_FOUND)")
    if port in machine.media and machine.media[port][0] == "hdd":
        raise VBoxError(f"Port {port} has a disk already")
    machine.media[port] = ("dvddrive", str(medium.resolve()))


def start(machines: Machines, words: Words) -> None:
    machine = find(machines, words[0])
    if list(words[1:]) != ["--type", "headless"]:
        raise VBoxError(f"Invalid parameter '{words[-1]}'")
    machine.start()
    print(
        f'Waiting for VM "{machine.name}" to power on...\nVM "{machine.name}" has been successfully started.'
    )


def control(machines: Machines, words: Words) -> None:
    machine = find(machines, words[0])
    if machine.pid is None:
        raise VBoxError(f"Machine '{machine.name}' is not currently running")
    match list(words[1:]):
        case ["poweroff"]:
            machine.power_off()
        case ["acpipowerbutton"]:
            machine.ask("system_powerdown")
        case ["pause"]:
            machine.ask("stop")
        case ["resume"]:
            machine.ask("cont")
        case ["savestate"]:
            machine.save()
        case _:
            raise VBoxError(f"Invalid parameter '{' '.join(words[1:])}'")


def discard(machines: Machines, words: Words) -> None:
    find(machines, words[0]).discard()


def unregister(machines: Machines, words: Words) -> None:
    machine = find(machines, words[0])
    if machine.pid is not None:
        raise VBoxError(f"Cannot unregister the machine '{machine.name}' while it is locked")
    del machines[machine.uuid]
    if "--delete" in words:
        shutil.rmtree(machine.place)


def snapshot(machines: Machines, words: Words) -> None:
    machine = find(machines, words[0])
    match list(words[1:]):
        case ["list", "--machinereadable"]:
            if not machine.snapshots:
                print("This machine does not have any snapshots")
                raise SystemExit(1)
            for depth, name in enumerate(machine.snapshots):
                print(f'SnapshotName{"-1" * depth}="{name}"')
        case ["take", name]:
            machine.take(name)
        case ["restore", name]:
            machine.go_back(name)
        case ["delete", name]:
            machine.forget(name)
        case _:
            raise VBoxError(f"Invalid parameter '{' '.join(words[1:])}'")
    sys.stderr.write("0%...50%...100%\n")


def property_(machines: Machines, words: Words) -> None:
    find(machines, words[1])
    print("No value set!")  # there are no Guest Additions in the box


COMMANDS: dict[str, Callable[[Machines, Words], None]] = {
    "list": list_,
    "import": import_,
    "showvminfo": show,
    "modifyvm": modify,
    "storageattach": attach,
    "startvm": start,
    "controlvm": control,
    "discardstate": discard,
    "unregistervm": unregister,
    "snapshot": snapshot,
    "guestproperty": property_,
}


def main(words: Words) -> int:
    """Run a command; 0, 1 for what cannot be done, 2 for what is no command."""
    if list(words) == ["--version"]:
        print(VERSION)
        return 0
    with registry() as machines:
        with (HOME / "said").open("a") as said:
            said.write(json.dumps(list(words)) + "\n")
        if not words or words[0] not in COMMANDS:
            sys.stderr.write(f"VBoxManage: error: Invalid command '{' '.join(words)}'\n")
            return 2
        try:
            COMMANDS[words[0]](machines, words[1:])
        except VBoxError as refused:
            sys.stderr.write(f"VBoxManage: error: {refused}\n")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
