"""The table of providers: a new one is a new line here and a file of its own.

Providers are imported when first asked for: looking at one's machines must not need another's programs.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import cast

from mlvm.errors import MachineError
from mlvm.machine.provider import Provider
from mlvm.machine.record import Record

PROVIDERS = MappingProxyType(
    {
        "qemu": "mlvm.machine.qemu.provider:QemuProvider",
        "vagrant": "mlvm.machine.vagrant.provider:VagrantProvider",
    }
)
DEFAULT = "qemu"


def provider_for(record: Record, **options: bool) -> Provider:
    """Return the provider that runs a machine, made with `options`; what follows a colon in its name is its own matter.

    Raises MachineError for one this mlvm does not know.
    """
    try:
        module, _, name = PROVIDERS[record.provider.partition(":")[0]].partition(":")
    except KeyError:
        raise MachineError(
            f"machine `{record.name}` is run by provider `{record.provider}`, which this mlvm does not know",
            hint=f"known providers: {', '.join(sorted(PROVIDERS))}",
        ) from None
    return cast("Provider", getattr(import_module(module), name)(**options))


def check_same(record: Record, wanted: str | None) -> None:
    """Raise MachineError when a machine that is there is run by another provider than `wanted`."""
    if wanted and wanted not in (record.provider, record.provider.partition(":")[0]):
        raise MachineError(
            f"machine `{record.name}` is run by `{record.provider}`, and stays so",
            hint=f"`mlvm destroy {record.name}` first, or another name with `--name`",
        )
