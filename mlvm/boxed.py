"""What a machine that Vagrant runs needs before it starts: its own Vagrantfile, and a box that Vagrant has.

The Vagrantfile is the one of `mlvm vagrant init`, with the machine's name and size; a person's own is another file,
which stays theirs. The box is exported only when Vagrant does not have it yet, and not kept twice.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from mlvm.box import vagrantfile
from mlvm.box.export import export
from mlvm.box.ruby import literal
from mlvm.errors import MachineError, MlvmError
from mlvm.events import Observer
from mlvm.image.document import Image
from mlvm.lock.document import Lock
from mlvm.machine.record import Record
from mlvm.machine.vagrant import layout, mending
from mlvm.spec.document import Spec

#: Why a hypervisor has no GPU for its machines.
NO_GPU = {
    "virtualbox": "VirtualBox dropped PCI passthrough in version 6.1",
    "vmware_desktop": "VMware's desktop products have no PCI passthrough",
    "hyperv": "Hyper-V's device assignment is for its server edition, and Vagrant cannot ask for it",
}
#: What differs from a Vagrantfile for people: ports and folders are not Vagrant's matter here, and a suspended machine
#: takes no RAM of the host.
_MORE = """\

Vagrant.configure("2") do |config|
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.provider("libvirt") { |libvirt| libvirt.suspend_mode = "managedsave" }
end
"""


def prepare(record: Record, spec: Spec, lock: Lock, image: Image, *, observer: Observer) -> None:
    """Write the machine's Vagrantfile; leave its box for Vagrant to take, if that has none."""
    hypervisor = layout.hypervisor(record)
    gpus = _gpus(record, hypervisor)
    for note in _left_out(record, spec):
        observer.note(note)
    own = replace(spec, name=record.name, machine=record.shape, ports=())
    text = vagrantfile.render(own, lock, boxes={}) + _MORE
    if hypervisor == "libvirt" and (driver := _driver(record, image)):
        # Presence of /dev/kvm proves nothing: what was tried counts.
        text += f'\nENV["MLVM_LIBVIRT_DRIVER"] ||= {literal(driver)}\n'
    if gpus:
        text += f'\nENV["MLVM_GPUS"] = {literal(",".join(gpus))}\n'
    name, digest = vagrantfile.box_name(lock), ""
    mending.prepare(record, text, box=name, digest=digest)
    if not layout.has_box(name, hypervisor):
        made = export(
            lock,
            image,
            home=record.home,
            provider=hypervisor,
            output=layout.box_file(record),
            observer=observer,
        )
        mending.prepare(record, text, box=name, digest=made.sha256)


def _driver(record: Record, image: Image) -> str:
    """Return libvirt's name for what runs the guest's instructions here; empty when that cannot be found out."""
    from mlvm.machine.qemu import accelerator  # noqa: PLC0415
    from mlvm.machine.qemu.host import Accelerator, probe_host  # noqa: PLC0415

    with suppress(MlvmError):
        if accelerator.obstacle(accelerator.KVM):
            return "qemu"
        chosen = accelerator.choose(record.home, probe_host(), image.vmlinuz).accelerator
        return "kvm" if chosen is Accelerator.KVM else "qemu"
    return ""


def _gpus(record: Record, hypervisor: str) -> tuple[str, ...]:
    """Return the addresses of what this host gives to the machine. Raises MachineError where it cannot be given."""
    if not record.shape.gpu:
        return ()
    if hypervisor != "libvirt":
        why = NO_GPU.get(hypervisor, "that is arranged for libvirt only")
        raise MachineError(
            f"{hypervisor} gives no GPU of this host to a machine: {why}",
            hint="mlvm up, or mlvm up --provider vagrant:libvirt",
        )
    from mlvm.machine import gpu  # noqa: PLC0415

    return gpu.choose(record.shape.gpu, memory=record.shape.memory)


def _left_out(record: Record, spec: Spec) -> list[str]:
    """Say what of a spec a machine of Vagrant's does without."""
    found = []
    if spec.share:
        found.append("folders are not shared with machines that Vagrant runs: `share` is left out")
    if spec.network != "user":
        raise MachineError(
            f"`network: {spec.network}` cannot be had from Vagrant: machine `{record.name}` would reach more",
            hint="mlvm up, without --provider vagrant",
        )
    return found
