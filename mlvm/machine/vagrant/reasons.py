"""Why Vagrant failed, in words that end with the next command.

Vagrant's own errors have a class; what comes out of a plugin, of libvirt or of Ruby has only its text. The table is
looked through in order; what is not in it is shown as Vagrant said it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlvm.errors import MachineError, MlvmError, ProgramError, StageTimeout
from mlvm.machine.vagrant.said import Failure

#: The oldest Vagrant that this was tried with; and the plugin's.
OLDEST = (2, 3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """A row: a class of Vagrant's, or an expression in its text; `{name}` and `{hypervisor}` are filled in."""

    message: str
    hint: str
    kind: str = ""
    text: str = ""
    error: type[MlvmError] = MachineError


_AGAIN = "mlvm up --name {name}"
REASONS = (
    Reason(
        kind="MachineActionLockedError|EnvironmentLockedError",
        message="another Vagrant works on machine `{name}` just now",
        hint="wait for its end, then again: `ps -C vagrant` shows it",
    ),
    Reason(
        kind="VagrantInterrupt",
        message="Vagrant was interrupted, and has removed what it had begun of machine `{name}`",
        hint=_AGAIN,
    ),
    Reason(
        kind="ProviderNotFound",
        message="Vagrant has no provider `{hypervisor}`",
        hint="sudo apt-get install vagrant-{hypervisor}, or vagrant plugin install vagrant-{hypervisor}",
        error=ProgramError,
    ),
    Reason(
        kind="ProviderNotUsable|NoDefaultProvider|ProviderNotUsableError",
        message="Vagrant cannot use `{hypervisor}` on this host",
        hint="install it, or choose another: `mlvm up --provider vagrant:libvirt`",
        error=ProgramError,
    ),
    Reason(
        kind="FogLibvirtConnectionError",
        text="Error while connecting to [Ll]ibvirt",
        message="libvirt does not answer",
        hint="sudo systemctl start libvirtd; are you in the group `libvirt`?",
        error=ProgramError,
    ),
    Reason(
        kind="BoxChecksumMismatch|DownloaderChecksumError",
        text="checksum of the .*box did not match",
        message="the box of machine `{name}` is not what was exported",
        hint="mlvm up --provider vagrant, which exports it again",
    ),
    Reason(
        kind="BoxAddShortNotFound|BoxNotFound\\w*|BoxNotFound",
        message="Vagrant has lost the box of machine `{name}`",
        hint="mlvm up --provider vagrant, which exports it again",
    ),
    Reason(
        text="No space left on device|Failure writing output to destination|ENOSPC",
        message="the disk is full",
        hint="make room where Vagrant keeps boxes (`vagrant box prune`) and libvirt its disks "
        "(`virsh pool-info default`), then `" + _AGAIN + "`",
    ),
    Reason(
        kind="VMBootTimeout|NoIpAddressError",
        text="[Tt]imed out while waiting for the machine to boot|did not come up.*timeout",
        message="machine `{name}` did not answer by ssh in time",
        hint="mlvm stop {name}, then `" + _AGAIN + "`; `virsh console` shows what it says",
        error=StageTimeout,
    ),
    Reason(
        kind="WrongHostKey",
        text="shows another host key|Host key verification failed|HOST IDENTIFICATION HAS CHANGED",
        message="machine `{name}` shows another host key than the one that was made for it",
        hint="nothing was sent to it; if you know why: mlvm destroy {name}",
    ),
    Reason(
        kind="ForwardPort\\w*",
        text="cannot forward the specified ports",
        message="a port of this host that machine `{name}` needs is taken",
        hint="`ss -tlnp` shows by whom; then `" + _AGAIN + "`",
    ),
    Reason(
        kind="DomainNameExists|DomainVolumeExists",
        text="is already taken|Volume for domain is already created",
        message="something of a former machine `{name}` is in the way",
        hint="mlvm destroy {name}, which removes it",
    ),
    Reason(
        text="failed to initialize at a very early stage|There is a syntax error in the following Vagrantfile",
        message="the Vagrantfile of machine `{name}` cannot be read",
        hint="mlvm up --provider vagrant, which writes it anew",
    ),
    Reason(
        text="Cannot access storage file|Could not open .*Permission denied",
        message="the hypervisor may not read a file of machine `{name}`",
        hint="set MLVM_HOME to a folder that it can enter, or let it run as you",
    ),
    Reason(
        text="memory.*Cannot allocate|cannot set up guest memory",
        message="this host has not enough memory for machine `{name}`",
        hint="put a smaller `machine: {{memory: 1 GiB}}` in mlvm.yaml, or stop something",
    ),
)


def explained(found: Failure, *, name: str, hypervisor: str, verb: str) -> MlvmError:
    """Return the error to raise for a failure of `vagrant VERB`."""
    kind = found.kind.rpartition("::")[2]
    words = {"name": name, "hypervisor": hypervisor}
    for reason in REASONS:
        by_kind = reason.kind and kind and re.fullmatch(reason.kind, kind)
        if by_kind or (reason.text and re.search(reason.text, found.text)):
            return reason.error(
                reason.message.format(**words), details=found.text, hint=reason.hint.format(**words)
            )
    return MachineError(
        f"`vagrant {verb}` failed for machine `{name}`",
        details=found.text or "it gave no reason",
        hint=f"again: `mlvm up --name {name}`; else `mlvm destroy {name}`",
    )


def check_version(version: str) -> None:
    """Raise ProgramError for a Vagrant that is too old, or is none."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if not numbers or (int(numbers[1]), int(numbers[2])) < OLDEST:
        raise ProgramError(
            f"Vagrant {version or 'of no version'} is too old: {'.'.join(map(str, OLDEST))} is needed",
            hint="sudo apt-get install vagrant, or take it from its makers",
        )
