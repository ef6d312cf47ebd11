"""What hypervisors are told: read by others where others read it, and in the order that the schema wants."""

from __future__ import annotations

from xml.etree import ElementTree as Xml

import pytest
from dissect.hypervisor.descriptor.ovf import OVF
from dissect.hypervisor.descriptor.vmx import VMX

from mlvm.box import hardware
from mlvm.box.providers import KINDS, REFUSED, box_kind
from mlvm.errors import BuildError

HOSTILE = "<x>&\"';|\n]]>ü"
RASD = "{http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData}"


def ovf(name: str = "x") -> bytes:
    return hardware.ovf(name, disk="disk.vmdk", disk_size=1 << 36, file_size=12345)


def test_dissect_finds_the_ovf_s_disk() -> None:
    import io

    assert list(OVF(io.StringIO(ovf().decode())).disks()) == ["disk.vmdk"]


def test_dissect_finds_the_vmx_s_disk() -> None:
    assert VMX.parse(hardware.vmx("x", disk="disk.vmdk").decode()).disks() == ["disk.vmdk"]


def test_an_ovf_s_sections_are_in_the_schema_s_order() -> None:
    root = Xml.fromstring(ovf())
    assert [element.tag.rpartition("}")[2] for element in root] == [
        "References",
        "DiskSection",
        "NetworkSection",
        "VirtualSystem",
    ]


def test_an_item_s_settings_are_in_the_schema_s_order() -> None:
    for item in Xml.fromstring(ovf()).iter("{http://schemas.dmtf.org/ovf/envelope/1}Item"):
        names = [element.tag.removeprefix(RASD) for element in item]
        assert names == sorted(names)


@pytest.mark.parametrize("render", [ovf, lambda name: hardware.hyperv(name, disk="d.vhdx")])
def test_a_hostile_name_stays_a_text_in_xml(render: object) -> None:
    root = Xml.fromstring(render(HOSTILE))  # type: ignore[operator]
    texts = [element.text for element in root.iter()] + [v for e in root.iter() for v in e.attrib.values()]
    assert HOSTILE in texts


def test_a_hostile_name_ends_no_line_of_a_vmx() -> None:
    lines = hardware.vmx('a"\nevil = "1', disk="d").decode().splitlines()
    assert [line for line in lines if line.startswith("evil")] == []


def test_what_vagrant_asks_of_hyperv_s_xml_is_there() -> None:
    root = Xml.fromstring(hardware.hyperv("x", disk="d.vhdx"))
    asked = [
        *("./properties/subtype", "./properties/name", ".//boot/device0", ".//secure_boot_enabled"),
        *("./settings/processors/count", ".//memory/bank/size", ".//memory/bank/dynamic_memory_enabled"),
        *(
            ".//controller0/drive0/pathname",
            ".//controller0/drive0/type",
            ".//controller0/../ChannelInstanceGuid",
        ),
    ]
    assert [path for path in asked if root.find(path) is None] == []


def test_every_kind_has_a_vagrantfile() -> None:
    assert all(f'config.vm.provider "{kind}"' in hardware.vagrantfile(kind).decode() for kind in KINDS)


@pytest.mark.parametrize("provider", [*REFUSED, "nobody"])
def test_what_cannot_be_made_is_refused_with_a_way_on(provider: str) -> None:
    with pytest.raises(BuildError, match="there is no") as refused:
        box_kind(provider)
    assert refused.value.hint
