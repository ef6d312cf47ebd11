"""What each hypervisor is told about the machine: OVF, VMX, Hyper-V's XML, and the box's own Vagrantfile.

The disk is the same in all; only its wrapping and its description differ. Sizes are defaults that a project's
Vagrantfile overrides: a box is made from a lock, and a lock says nothing of memory.
"""

from __future__ import annotations

from xml.etree import ElementTree as Xml

from mlvm.box.ruby import literal

CPUS, MEMORY_MIB = 2, 2048
_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
_SETTING, _RESOURCE = f"{_CIM}/CIM_VirtualSystemSettingData", f"{_CIM}/CIM_ResourceAllocationSettingData"
_STREAM_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_HEAD = b'<?xml version="1.0" encoding="UTF-8"?>\n'


def ovf(name: str, *, disk: str, disk_size: int, file_size: int) -> bytes:
    """Return the OVF that VirtualBox imports: AHCI, an Intel card behind NAT."""
    root = Xml.Element(f"{{{_OVF}}}Envelope")
    references = _ovf(root, "References")
    _ovf(references, "File", id="file1", href=disk, size=str(file_size))
    section = _ovf(root, "DiskSection")
    _ovf(section, "Info", "Virtual disks")
    _ovf(section, "Disk", diskId="disk1", fileRef="file1", capacity=str(disk_size), format=_STREAM_FORMAT)
    network = _ovf(root, "NetworkSection")
    _ovf(network, "Info", "Networks")
    _ovf(_ovf(network, "Network", name="NAT"), "Description", "NAT")
    system = _ovf(root, "VirtualSystem", id=name)
    _ovf(system, "Info", "A virtual machine")
    operating = _ovf(system, "OperatingSystemSection", id="96")
    _ovf(operating, "Info", "Guest operating system")
    _ovf(operating, "Description", "Debian_64")
    hardware = _ovf(system, "VirtualHardwareSection")
    _ovf(hardware, "Info", "Virtual hardware")
    described = _ovf(hardware, "System")
    for key, text in (
        ("ElementName", "Virtual Hardware Family"), ("InstanceID", "0"),
        ("VirtualSystemIdentifier", name), ("VirtualSystemType", "virtualbox-2.2"),
    ):  # fmt: skip
        Xml.SubElement(described, f"{{{_SETTING}}}{key}").text = text
    for item in _items():
        element = _ovf(hardware, "Item")
        # The schema wants them in this order.
        for key in sorted(item):
            Xml.SubElement(element, f"{{{_RESOURCE}}}{key}").text = item[key]
    return _document(root)


def _items() -> list[dict[str, str]]:
    return [
        {
            "ElementName": f"{CPUS} CPUs", "InstanceID": "1", "ResourceType": "3",
            "VirtualQuantity": str(CPUS),
        },
        {
            "AllocationUnits": "MegaBytes", "ElementName": f"{MEMORY_MIB} MB", "InstanceID": "2",
            "ResourceType": "4", "VirtualQuantity": str(MEMORY_MIB),
        },
        {
            "Address": "0", "ElementName": "SATA Controller", "InstanceID": "3",
            "ResourceSubType": "AHCI", "ResourceType": "20",
        },
        {
            "AddressOnParent": "0", "ElementName": "disk1", "HostResource": "ovf:/disk/disk1",
            "InstanceID": "4", "Parent": "3", "ResourceType": "17",
        },
        {
            "AutomaticAllocation": "true", "Connection": "NAT", "ElementName": "Network card",
            "InstanceID": "5", "ResourceSubType": "E1000", "ResourceType": "10",
        },
    ]  # fmt: skip


def _ovf(parent: Xml.Element, tag: str, text: str | None = None, **attributes: str) -> Xml.Element:
    element = Xml.SubElement(parent, f"{{{_OVF}}}{tag}")
    for key, value in attributes.items():
        element.set(f"{{{_OVF}}}{key}", value)
    element.text = text
    return element


def vmx(name: str, *, disk: str) -> bytes:
    """Return VMware's description: BIOS, paravirtual SCSI and network card."""
    values = {
        ".encoding": "UTF-8",
        "config.version": "8",
        "virtualHW.version": "14",
        "displayName": name,
        "guestOS": "debian11-64",
        "firmware": "bios",
        "memsize": str(MEMORY_MIB),
        "numvcpus": str(CPUS),
        "scsi0.present": "TRUE",
        "scsi0.virtualDev": "pvscsi",
        "scsi0:0.present": "TRUE",
        "scsi0:0.fileName": disk,
        "ethernet0.present": "TRUE",
        "ethernet0.virtualDev": "vmxnet3",
        "ethernet0.connectionType": "nat",
        "ethernet0.addressType": "generated",
        "ethernet0.pciSlotNumber": "192",
        "pciBridge0.present": "TRUE",
        "pciBridge4.present": "TRUE",
        "pciBridge4.virtualDev": "pcieRootPort",
        "pciBridge4.functions": "8",
        "vmci0.present": "TRUE",
        "hpet0.present": "TRUE",
        "tools.syncTime": "TRUE",
    }
    return "".join(f'{key} = "{_vmx_text(value)}"\n' for key, value in values.items()).encode()


def _vmx_text(value: str) -> str:
    """Escape as VMware does: bars, quotes and line ends by their numbers."""
    return "".join(f"|{ord(letter):02X}" if letter in '|"\n\r' else letter for letter in value)


def hyperv(name: str, *, disk: str) -> bytes:
    """Return what Vagrant makes a Hyper-V machine of: generation 2, SCSI, no secure boot (GRUB is not signed)."""
    root = Xml.Element("configuration")
    _typed(root, "properties/name", "string", name)
    _typed(root, "properties/subtype", "integer", "1")
    _typed(root, "settings/processors/count", "integer", str(CPUS))
    _typed(root, "settings/memory/bank/dynamic_memory_enabled", "bool", "False")
    for key in ("limit", "reservation", "size"):
        _typed(root, f"settings/memory/bank/{key}", "integer", str(MEMORY_MIB))
    _typed(root, "boot/device0", "string", "HardDrive")
    _typed(root, "secure_boot_enabled", "bool", "False")
    _typed(root, "notes", "string", name)
    _typed(root, "scsi/ChannelInstanceGuid", "string", "{6d6c766d-0000-4000-8000-000000000004}")
    _typed(root, "scsi/controller0/drive0/pathname", "string", disk)
    _typed(root, "scsi/controller0/drive0/type", "string", "VHD")
    return _document(root)


def _typed(root: Xml.Element, path: str, kind: str, text: str) -> None:
    """Put a value at a path, making the folders of it that are not there."""
    *above, last = path.split("/")
    where = root
    for tag in above:
        found = where.find(tag)
        where = Xml.SubElement(where, tag) if found is None else found
    Xml.SubElement(where, last, type=kind).text = text


def _document(root: Xml.Element) -> bytes:
    for prefix, uri in (("ovf", _OVF), ("rasd", _RESOURCE), ("vssd", _SETTING)):
        Xml.register_namespace(prefix, uri)
    Xml.indent(root)
    return _HEAD + Xml.tostring(root, encoding="unicode").encode() + b"\n"


#: The block of each provider in the box's own Vagrantfile; Vagrant lets a project's Vagrantfile override each line.
_BLOCKS = {
    "virtualbox": ("vb", ("memory", "cpus"), ("vb.gui = false", "vb.check_guest_additions = false")),
    "libvirt": ("lv", ("memory", "cpus"), ('lv.disk_bus = "virtio"', 'lv.nic_model_type = "virtio"')),
    "qemu": (
        "qe", (),
        (f'qe.memory = "{MEMORY_MIB}M"', f"qe.smp = {CPUS}", 'qe.arch = "x86_64"', 'qe.machine = "q35"',
         'qe.cpu = "max"', 'qe.net_device = "virtio-net-pci"'),
    ),
    "hyperv": ("hv", ("memory", "cpus"), ()),
    "vmware_desktop": ("vmw", (), ("vmw.gui = false",)),
}  # fmt: skip


def vagrantfile(provider: str) -> bytes:
    """Return the Vagrantfile inside the box: defaults that make a bare `vagrant init NAME && vagrant up` right."""
    variable, sizes, lines = _BLOCKS[provider]
    values = {"memory": MEMORY_MIB, "cpus": CPUS}
    block = [*(f"{variable}.{key} = {literal(values[key])}" for key in sizes), *lines]
    text = [
        "# Defaults of this box; a project's own Vagrantfile comes after it, and its word counts.",
        'Vagrant.configure("2") do |config|',
        "  config.vm.guest = :debian",
        "  # Enough for a host that has to emulate the CPU.",
        "  config.vm.boot_timeout = 600",
        "  # rsync is the one way that every hypervisor has; it needs nothing in the guest that is not there.",
        '  config.vm.synced_folder ".", "/vagrant", type: "rsync"',
        f"  config.vm.provider {literal(provider)} do |{variable}|",
        *(f"    {line}" for line in block),
        "  end",
        "end",
        "",
    ]
    return "\n".join(text).encode()
