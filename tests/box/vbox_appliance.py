"""An appliance as VirtualBox's importer would see it: read from the OVF alone, refused where it makes no sense.

Standard library only, and nothing of mlvm's: it must not share a mistake with what wrote the OVF.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"
VSSD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData}"
#: CIM's numbers for what a machine has.
CPU, MEMORY, NETWORK, DISK, SATA = "3", "4", "10", "17", "20"
#: The one way in which VirtualBox wants disks in an appliance.
STREAM = "streamOptimized"


class VBoxError(Exception):
    """What VBoxManage says after `error: `."""


@dataclass(frozen=True, kw_only=True)
class Appliance:
    """One machine with one disk at a SATA controller and one network card; `memory` in MiB, `capacity` in bytes."""

    name: str
    cpus: int
    memory: int
    disk: Path
    capacity: int
    disk_port: int
    units: dict[str, int]


def read(path: Path) -> Appliance:
    """Return what an OVF says, its disk looked at too. Raises VBoxError."""
    try:
        root = Xml.parse(path).getroot()
    except (OSError, Xml.ParseError) as failed:
        raise VBoxError(f"Appliance read failed\nDetails: {failed}") from failed
    systems = root.findall(f"{OVF}VirtualSystem")
    if root.tag != f"{OVF}Envelope" or len(systems) != 1:
        raise VBoxError(f"no OVF with exactly one machine: {path}")
    items = [
        {one.tag.removeprefix(RASD): one.text or "" for one in item} for item in systems[0].iter(f"{OVF}Item")
    ]
    if len({item["InstanceID"] for item in items}) != len(items):
        raise VBoxError("two items of the hardware have one InstanceID")
    numbers = {item["InstanceID"]: number for number, item in enumerate(items, start=5)}
    disk = _only(items, DISK, "disk")
    controller = next((item for item in items if item["InstanceID"] == disk["Parent"]), None)
    if controller is None or (controller["ResourceType"], controller.get("ResourceSubType")) != (
        SATA,
        "AHCI",
    ):
        raise VBoxError("the disk is at no AHCI controller, and this stand-in has no other")
    card = _only(items, NETWORK, "network card")
    if card.get("ResourceSubType") != "E1000" or card.get("Connection") != "NAT":
        raise VBoxError("the network card is no E1000 behind NAT, and this stand-in has no other")
    if "NAT" not in {one.get(f"{OVF}name") for one in root.iter(f"{OVF}Network")}:
        raise VBoxError("the network `NAT` is nowhere described")
    memory = _only(items, MEMORY, "memory")
    if memory.get("AllocationUnits") not in {"MegaBytes", "byte * 2^20"}:
        raise VBoxError(f"memory in units of {memory.get('AllocationUnits')}")
    image, capacity = _image(root, disk["HostResource"], path.parent)
    name = systems[0].find(f".//{VSSD}VirtualSystemIdentifier")
    return Appliance(
        name=(name is not None and name.text) or systems[0].get(f"{OVF}id") or "vm",
        cpus=int(_only(items, CPU, "number of CPUs")["VirtualQuantity"]),
        memory=int(memory["VirtualQuantity"]),
        disk=image,
        capacity=capacity,
        disk_port=int(disk["AddressOnParent"]),
        units={"disk": numbers[disk["InstanceID"]], "controller": numbers[controller["InstanceID"]]},
    )


def _only(items: list[dict[str, str]], kind: str, what: str) -> dict[str, str]:
    found = [item for item in items if item["ResourceType"] == kind]
    if len(found) != 1:
        raise VBoxError(f"{len(found)} times a {what} in the hardware")
    return found[0]


def _image(root: Xml.Element, resource: str, folder: Path) -> tuple[Path, int]:
    """Return the file that a disk's resource names, and the size that it must have."""
    if not resource.startswith("ovf:/disk/"):
        raise VBoxError(f"no disk of the appliance: {resource}")
    disks = {one.get(f"{OVF}diskId"): one for one in root.iter(f"{OVF}Disk")}
    files = {one.get(f"{OVF}id"): one for one in root.iter(f"{OVF}File")}
    try:
        disk = disks[resource.removeprefix("ovf:/disk/")]
        file = files[disk.get(f"{OVF}fileRef")]
    except KeyError as missing:
        raise VBoxError(f"the appliance refers to {missing}, which is not in it") from None
    path = folder / (file.get(f"{OVF}href") or "")
    if path.parent != folder or not path.is_file():
        raise VBoxError(f"Could not open the medium '{path}' (VERR_FILE_NOT_FOUND)")
    if int(file.get(f"{OVF}size") or path.stat().st_size) != path.stat().st_size:
        raise VBoxError(f"'{path.name}' has another size than the appliance says")
    if not (disk.get(f"{OVF}format") or "").endswith(STREAM):
        raise VBoxError(f"the disk's format is {disk.get(f'{OVF}format')}")
    told = json.loads(
        subprocess.run(
            ["qemu-img", "info", "-f", "vmdk", "--output=json", path], check=True, capture_output=True
        ).stdout
    )
    capacity = int(disk.get(f"{OVF}capacity") or 0)
    kind = told["format-specific"]["data"]["create-type"]
    if kind != STREAM or told["virtual-size"] != capacity:
        raise VBoxError(
            f"'{path.name}' is {kind} of {told['virtual-size']} bytes, not what the appliance says"
        )
    return path, capacity
