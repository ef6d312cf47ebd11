"""The table of Vagrant's providers: what a box for each consists of.

A new one is one more function and one more line. What cannot be made so that anything here could check it is refused
with the reason, and with the way that there is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlvm.box import hardware
from mlvm.box.deflate import Deflater
from mlvm.box.qcow2 import wrap_qcow2
from mlvm.box.recipe import Recipe
from mlvm.box.vhdx import wrap_vhdx
from mlvm.box.vmdk import wrap_sparse, wrap_stream
from mlvm.errors import BuildError

Members = Mapping[str, Recipe]


@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """What members are made of. `deflater` is for formats that compress for themselves."""

    name: str
    disk: Recipe
    deflater: Deflater

    def text(self, content: bytes) -> Recipe:
        """Return some bytes as a member."""
        member = Recipe(self.disk.scratch)
        member.data(content)
        return member

    def json(self, content: Mapping[str, object]) -> Recipe:
        """Return a document as a member."""
        return self.text(json.dumps(content).encode() + b"\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxKind:
    """How a provider's box is made; `compressed` tells that its disk is, so that the box itself is a plain tar."""

    members: Callable[[Packing], Members]
    compressed: bool = False


def _virtualbox(packing: Packing) -> Members:
    name = "box-disk001.vmdk"
    disk = wrap_stream(packing.disk, name=name, deflater=packing.deflater)
    described = hardware.ovf(packing.name, disk=name, disk_size=packing.disk.size, file_size=disk.size)
    return {
        "metadata.json": packing.json({"provider": "virtualbox"}),
        "Vagrantfile": packing.text(hardware.vagrantfile("virtualbox")),
        "box.ovf": packing.text(described),
        name: disk,
    }


def _libvirt(packing: Packing) -> Members:
    disks = [{"path": "root.qcow2", "name": "root"}]
    return {
        "metadata.json": packing.json({"provider": "libvirt", "format": "qcow2", "disks": disks}),
        "Vagrantfile": packing.text(hardware.vagrantfile("libvirt")),
        "root.qcow2": wrap_qcow2(packing.disk),
    }


def _qemu(packing: Packing) -> Members:
    # vagrant-qemu takes libvirt boxes, of the older form.
    size = -(-packing.disk.size >> 30)
    return {
        "metadata.json": packing.json({"provider": "libvirt", "format": "qcow2", "virtual_size": size}),
        "Vagrantfile": packing.text(hardware.vagrantfile("qemu")),
        "box.img": wrap_qcow2(packing.disk),
    }


def _hyperv(packing: Packing) -> Members:
    return {
        "metadata.json": packing.json({"provider": "hyperv"}),
        "Vagrantfile": packing.text(hardware.vagrantfile("hyperv")),
        "Virtual Machines/box.xml": packing.text(hardware.hyperv(packing.name, disk="disk.vhdx")),
        "Virtual Hard Disks/disk.vhdx": wrap_vhdx(packing.disk),
    }


def _vmware(packing: Packing) -> Members:
    return {
        "metadata.json": packing.json({"provider": "vmware_desktop", "vmx_file": "box.vmx"}),
        "Vagrantfile": packing.text(hardware.vagrantfile("vmware_desktop")),
        "box.vmx": packing.text(hardware.vmx(packing.name, disk="disk.vmdk")),
        "disk.vmdk": wrap_sparse(packing.disk, name="disk.vmdk"),
    }


KINDS: Mapping[str, BoxKind] = {
    "libvirt": BoxKind(members=_libvirt),
    "virtualbox": BoxKind(members=_virtualbox, compressed=True),
    "qemu": BoxKind(members=_qemu),
    "hyperv": BoxKind(members=_hyperv),
    "vmware_desktop": BoxKind(members=_vmware),
}
#: Providers we know of and make nothing for, and why.
REFUSED: Mapping[str, tuple[str, str]] = {
    "parallels": (
        "only Parallels on a Mac reads how its machines are described: nothing made here could be tried",
        "on an Intel Mac, export `--provider vmware_desktop`: Parallels takes VMware's machines over",
    ),
}


def box_kind(provider: str) -> BoxKind:
    """Return how to make a box for `provider`. Raises BuildError for one that none is made for, with the reason."""
    if provider in REFUSED:
        why, hint = REFUSED[provider]
        raise BuildError(f"there is no box for `{provider}`", details=why, hint=hint)
    if provider not in KINDS:
        raise BuildError(
            f"there is no Vagrant provider `{provider}` that a box can be made for",
            hint=f"providers: {', '.join(KINDS)}",
        )
    return KINDS[provider]
