"""Kernelspecs: how Jupyter knows the kernels of ours.

One small folder a kernel, written by Jupyter's own KernelSpecManager. Everything of ours stands under `metadata`:
`kernel_provisioner` leads Jupyter to the provisioner, `mlvm` is how we find our own again. A kernelspec names a
project and a machine and holds nothing that could go stale when the lock moves on.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel

from mlvm.errors import KernelError
from mlvm.kernel import title
from mlvm.lock.document import Lock
from mlvm.machine.record import check_name
from mlvm.spec.document import Spec

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
#: Jupyter's names; what cannot show the first shows one of the others.
LOGOS = ("logo-svg.svg", "logo-64x64.png", "logo-32x32.png")


@dataclass(frozen=True, kw_only=True, slots=True)
class Installed:
    """A kernelspec of ours, where Jupyter finds it."""

    name: str
    display_name: str
    machine: str
    project: Path
    folder: Path


def document(
    spec_name: str, project: Path, machine: str, *, shown_as: str = "", adopt: str = ""
) -> dict[str, object]:
    """Return the content of `kernel.json` for a kernel in `machine` of the project in folder `project`.

    With `adopt` it is for going on with one kernel that lives there.
    """
    shown = spec_name if machine == spec_name else f"{spec_name}: {machine}"
    place = {"project": str(project), "machine": machine}
    config = {**place, "adopt": adopt} if adopt else place
    launcher = [sys.executable, "-m", "mlvm.kernel.standalone"]
    return {
        # Run only by frontends that ignore provisioners.
        "argv": [*launcher, "--project", str(project), "--machine", machine, "{connection_file}"],
        "display_name": shown_as or f"{shown} (mlvm)",
        "language": "python",
        # No signal has to find its way into the guest.
        "interrupt_mode": "message",
        "metadata": {
            "debugger": True,
            "supported_encryption": ["curve"],
            "kernel_provisioner": {"provisioner_name": "mlvm", "config": config},
            "mlvm": place,
        },
    }


def install(
    spec: Spec,
    folder: Path,
    *,
    name: str | None = None,
    machine: str | None = None,
    sys_prefix: bool = False,
    prefix: Path | None = None,
    lock: Lock | None = None,
) -> Installed:
    """Install a kernelspec for `spec` in project `folder`: for this user, else below `prefix` (or this Python's).

    With a `lock` the kernel is called after what is in it.

    An older one of ours with the same name is replaced; somebody else's is not touched. Raises KernelError.
    """
    name = check_kernel_name(name or f"mlvm-{spec.name}")
    machine = check_name(machine or spec.name)
    found = _find(name)
    if found is not None and _place(found.metadata) is None:
        raise KernelError(
            f"there is a kernel `{name}` already, and it is not one of ours",
            details=str(found.resource_dir),
            hint="choose another name with `--name`",
        )
    shown = _distinct(title.title(lock), name, machine) if lock is not None else ""
    content = document(spec.name, folder.absolute(), machine, shown_as=shown)
    where = str(prefix) if prefix else sys.prefix if sys_prefix else None
    with tempfile.TemporaryDirectory(prefix="mlvm-kernelspec-") as temporary:
        source = Path(temporary)
        source.chmod(0o755)  # the copy keeps the mode, and others may use a prefix too
        (source / "kernel.json").write_text(json.dumps(content, indent=1) + "\n")
        for logo in LOGOS:
            (source / logo).write_bytes((Path(__file__).parent / logo).read_bytes())
        try:
            installed = KernelSpecManager().install_kernel_spec(
                temporary, name, user=where is None, prefix=where
            )
        except OSError as error:
            raise KernelError(
                f"kernel `{name}` cannot be installed: {error.strerror or error}",
                details=str(error.filename or ""),
                hint="choose another place with `--sys-prefix`",
            ) from error
    return Installed(
        name=name,
        display_name=str(content["display_name"]),
        machine=machine,
        project=folder.absolute(),
        folder=Path(installed),
    )


def installed() -> list[Installed]:
    """Return every kernelspec of ours that Jupyter finds, sorted by name."""
    return [
        ours for name in sorted(KernelSpecManager().find_kernel_specs()) if (ours := _ours(name)) is not None
    ]


def remove(name: str) -> None:
    """Remove a kernelspec of ours; machines stay. Raises KernelError when it is none."""
    if _ours(name) is None:
        known = ", ".join(f"`{one.name}`" for one in installed()) or "none"
        raise KernelError(f"there is no kernel of mlvm called `{name}`", hint=f"installed are: {known}")
    try:
        KernelSpecManager().remove_kernel_spec(name)
    except OSError as error:
        raise KernelError(
            f"kernel `{name}` cannot be removed: {error.strerror or error}", details=str(error.filename or "")
        ) from error


def check_kernel_name(name: str) -> str:
    """Return `name`, or raise KernelError when it cannot be a kernel's name (Jupyter lower-cases them)."""
    if not NAME.fullmatch(name):
        raise KernelError(
            f"`{name}` cannot be a kernel's name",
            hint="lower-case letters, digits, `.`, `_` and `-`, 63 at most, starting with a letter or digit",
        )
    return name


class SingleSpec(KernelSpecManager):
    """Knows one kernelspec that is installed nowhere: for starting a kernel without leaving anything behind."""

    def __init__(self, content: Mapping[str, object]) -> None:
        super().__init__()
        self._only = KernelSpec(resource_dir="", **content)

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Return the one kernelspec."""
        return self._only


def _distinct(shown: str, name: str, machine: str) -> str:
    """Return a title that no other kernel of ours has: two that look the same cannot be chosen from."""
    taken = any(one.display_name == shown and one.name != name for one in installed())
    return f"{shown} · {machine}" if taken else shown


def _ours(name: str) -> Installed | None:
    found = _find(name)
    place = _place(found.metadata) if found else None
    if found is None or place is None:
        return None
    return Installed(
        name=name,
        display_name=found.display_name,
        machine=str(place.get("machine", "")),
        project=Path(str(place.get("project", ""))),
        folder=Path(found.resource_dir),
    )


def _find(name: str) -> KernelSpec | None:
    """Return a kernelspec by name; one that cannot be read is none."""
    try:
        return KernelSpecManager().get_kernel_spec(name)
    except (NoSuchKernel, ValueError, OSError):
        return None


def _place(metadata: Mapping[str, object]) -> Mapping[str, object] | None:
    place = metadata.get("mlvm")
    return place if isinstance(place, Mapping) else None
