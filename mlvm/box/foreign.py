"""Take a Vagrant box of a stranger's: unpack it, find its disk, and refuse what reaches beyond its folder.

Each provider's description (metadata.json, OVF, VMX, a folder's order) is read only for the disk's name; everything
else it asks for is not given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

from mlvm import files
from mlvm.box.headers import DiskFacts, look_at
from mlvm.box.unpack import Limits, checked_name, unpack
from mlvm.errors import BoxError

_LARGEST_TEXT = 4 << 20
_ENDINGS = {".vhdx": "vhdx", ".vhd": "vpc", ".vmdk": "vmdk"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreign:
    """A box that was taken: where it lies now, for which provider it was made, its one disk."""

    folder: Path
    provider: str
    disk: Path
    facts: DiskFacts


def take(box: Path, target: Path, *, limits: Limits | None = None) -> Foreign:
    """Unpack `box` into the new folder `target` and check it; nothing is left of a box that is refused.

    Raises BoxError.
    """
    if not box.is_file():
        raise BoxError(f"there is no box `{box}`")
    unpack(box, target, limits=limits)
    try:
        provider, disk, wanted = find_disk(target)
        return Foreign(folder=target, provider=provider, disk=disk, facts=look_at(disk, wanted=wanted))
    except BaseException:
        files.remove_tree(target)
        raise


def find_disk(folder: Path) -> tuple[str, Path, str]:
    """Return provider, disk and format of the unpacked box in `folder`. Raises BoxError."""
    try:
        document = json.loads(_text(folder, "metadata.json"))
    except (ValueError, RecursionError) as broken:
        raise BoxError(f"the box's metadata.json is not JSON: {broken}") from None
    if not isinstance(document, dict) or not isinstance(document.get("provider"), str):
        raise BoxError("the box's metadata.json names no provider")
    finders: dict[str, Callable[[Path, Mapping[str, object]], tuple[Path, str]]] = {
        "libvirt": _in_libvirt,
        "qemu": _in_libvirt,
        "virtualbox": _in_virtualbox,
        "hyperv": _in_hyperv,
        "vmware_desktop": _in_vmware,
        "vmware_fusion": _in_vmware,
        "vmware_workstation": _in_vmware,
    }
    provider = document["provider"]
    if provider not in finders:
        raise BoxError(f"boxes for `{provider}` are not taken", hint=f"providers: {', '.join(finders)}")
    return provider, *finders[provider](folder, document)


def _in_libvirt(folder: Path, document: Mapping[str, object]) -> tuple[Path, str]:
    name: object = "box.img"
    disks = document.get("disks")
    wanted = document.get("format", "qcow2")
    if disks is not None:
        if not isinstance(disks, list) or len(disks) != 1 or not isinstance(disks[0], dict):
            raise BoxError("the box has not exactly one disk")
        name = disks[0].get("path")
        wanted = disks[0].get("format", wanted)
    if wanted not in {"qcow2", "raw"}:
        raise BoxError(f"the box's disk is of format {wanted!r}")
    return _inside(folder, name), str(wanted)


def _in_virtualbox(folder: Path, document: Mapping[str, object]) -> tuple[Path, str]:
    text = _text(folder, "box.ovf")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise BoxError("box.ovf declares entities, which no OVF needs")
    try:
        root = Xml.fromstring(text)  # noqa: S314  (no entities: just looked)
    except (Xml.ParseError, ValueError, RecursionError) as broken:
        raise BoxError(f"box.ovf is not XML: {broken}") from None
    names = [
        value
        for element in root.iter()
        if element.tag.rpartition("}")[2] == "File"
        for key, value in element.attrib.items()
        if key.rpartition("}")[2] == "href"
    ]
    # All of them, not only the disk's: VirtualBox would open each.
    places = [_inside(folder, name) for name in names]
    disks = [place for place in places if place.suffix.lower() == ".vmdk"]
    if len(disks) != 1:
        raise BoxError(f"box.ovf has {len(disks)} disks that are VMDKs, and one is wanted")
    return disks[0], "vmdk"


def _in_hyperv(folder: Path, document: Mapping[str, object]) -> tuple[Path, str]:
    disks = sorted(
        path for path in folder.glob("Virtual Hard Disks/*") if path.suffix.lower() in {".vhdx", ".vhd"}
    )
    if len(disks) != 1:
        raise BoxError(f"the box has {len(disks)} virtual hard disks, and one is wanted")
    return disks[0], _ENDINGS[disks[0].suffix.lower()]


def _in_vmware(folder: Path, document: Mapping[str, object]) -> tuple[Path, str]:
    name = document.get("vmx_file") or next((path.name for path in sorted(folder.glob("*.vmx"))), None)
    text = _text(folder, name)
    values = re.findall(r'^\s*([\w.:]+)\.fileName\s*=\s*"([^"]*)"', text, re.MULTILINE | re.IGNORECASE)
    disks = [_inside(folder, value) for _, value in values if value.lower().endswith(".vmdk")]
    if len(disks) != 1:
        raise BoxError(f"`{name}` has {len(disks)} disks that are VMDKs, and one is wanted")
    return disks[0], "vmdk"


def _inside(folder: Path, name: object) -> Path:
    """Return the file `name` of the box. Raises BoxError when it leaves the box's folder, or is not there."""
    if not isinstance(name, str) or not name:
        raise BoxError("the box does not name its disk")
    place = folder / checked_name(name)
    if not place.is_file() or place.is_symlink():
        raise BoxError(f"the box names `{name}`, and has no such file")
    return place


def _text(folder: Path, name: object) -> str:
    place = _inside(folder, name)
    if place.stat().st_size > _LARGEST_TEXT:
        raise BoxError(f"`{name}` in the box is larger than any such file")
    try:
        return place.read_text(encoding="utf-8")
    except UnicodeDecodeError as broken:
        raise BoxError(f"`{name}` in the box is no text: {broken}") from None
