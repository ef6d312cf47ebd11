"""What libvirt itself knows of a machine: asked in hundredths of a second, where Vagrant needs seconds to start.

Nothing here is changed but the base volume of a box whose upload was cut short: Vagrant would silently use it again.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from mlvm import process
from mlvm.errors import MachineError, ProgramError

#: Seconds that libvirt may take; it may be starting.
ANSWER = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """A domain as `virsh dominfo` tells it; `run` is another number for each time it was started, empty when off."""

    uuid: str
    state: str
    run: str
    saved: bool
    cpu_seconds: float | None


def address() -> str:
    """Return the address of libvirt that Vagrant would use."""
    return os.environ.get("LIBVIRT_DEFAULT_URI") or "qemu:///system"


def pool() -> str:
    """Return the name of the storage pool that the Vagrantfile has the disks put into."""
    return os.environ.get("MLVM_LIBVIRT_POOL") or "default"


def answers() -> bool:
    """Tell whether libvirt answers."""
    try:
        return process.run(_virsh("uri"), check=False, timeout=ANSWER, env=_plain()).returncode == 0
    except ProgramError:
        return False


def find(name: str) -> Domain | None:
    """Return the domain with a name or UUID, None when there is none. Raises ProgramError when nobody answers."""
    done = process.run(_virsh("dominfo", name), check=False, timeout=ANSWER, env=_plain())
    if done.returncode == 0:
        return parse(done.stdout.decode(errors="replace"))
    said = done.stderr.decode(errors="replace")
    if "failed to get domain" in said or "Domain not found" in said:
        return None
    raise ProgramError(
        "libvirt does not answer",
        details=said.strip(),
        hint="sudo systemctl start libvirtd; are you in the group `libvirt`?",
    )


def parse(text: str) -> Domain:
    """Return what a text of `virsh dominfo` says. Raises MachineError when it says nothing of the kind."""
    fields = dict(re.findall(r"^([^:\n]+): +(.*?)\s*$", text, re.MULTILINE))
    if "UUID" not in fields or "State" not in fields:
        raise MachineError("libvirt's answer makes no sense", details=text[:500])
    run = fields.get("Id", "-")
    seconds = re.fullmatch(r"([\d.]+)s", fields.get("CPU time", ""))
    return Domain(
        uuid=fields["UUID"],
        state=fields["State"],
        run="" if run == "-" else run,
        saved=fields.get("Managed save") == "yes",
        cpu_seconds=float(seconds[1]) if seconds else None,
    )


def why_paused(uuid: str) -> str:
    """Return why a domain is paused: `user`, `I/O error` ..., empty when nobody knows."""
    done = process.run(_virsh("domstate", uuid, "--reason"), check=False, timeout=ANSWER, env=_plain())
    found = re.search(r"paused \((.*)\)", done.stdout.decode(errors="replace"))
    return found[1] if found else ""


def drop_cut_short(box: str, *, size: int) -> str:
    """Remove the volume of a box from the pool if it has less than `size` bytes; return its name if so.

    A disk that was full while the plugin copied the box leaves such a one, under the right name.
    """
    listed = process.run(_virsh("vol-list", pool()), check=False, timeout=ANSWER, env=_plain())
    prefix = box.replace("/", "-VAGRANTSLASH-") + "_vagrant_box_image_"
    for line in listed.stdout.decode(errors="replace").splitlines():
        name = line.split()[0] if line.split() else ""
        if not name.startswith(prefix):
            continue
        told = process.run(
            _virsh("vol-dumpxml", name, pool()), check=False, timeout=ANSWER, env=_plain()
        ).stdout.decode(errors="replace")
        there = re.search(r"<physical unit='bytes'>(\d+)</physical>", told)
        if there and int(there[1]) < size:
            process.run(_virsh("vol-delete", name, pool()), check=False, timeout=ANSWER, env=_plain())
            return name
    return ""


def snapshots(uuid: str) -> list[tuple[str, float]]:
    """Return the snapshots of a domain, each with its time."""
    listed = process.run(_virsh("snapshot-list", uuid, "--name"), check=False, timeout=ANSWER, env=_plain())
    found = []
    for name in listed.stdout.decode(errors="replace").split("\n"):
        if name.strip():
            told = process.run(
                _virsh("snapshot-dumpxml", uuid, name.strip()), check=False, timeout=ANSWER, env=_plain()
            ).stdout.decode(errors="replace")
            made = re.search(r"<creationTime>(\d+)</creationTime>", told)
            found.append((name.strip(), float(made[1]) if made else 0.0))
    return found


def forget_saved(uuid: str) -> bool:
    """Forget the saved state of a domain that is off; return whether it is off then."""
    found = find(uuid)
    if found is None or found.run or not found.saved:
        return False
    done = process.run(_virsh("managedsave-remove", uuid), check=False, timeout=ANSWER, env=_plain())
    return done.returncode == 0


def _virsh(*words: str) -> list[str]:
    return ["virsh", "--connect", address(), *words]


def _plain() -> dict[str, str]:
    """Return an environment in which programs say what they say in English."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}
