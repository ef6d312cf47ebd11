"""A notebook's cells run in a machine, by nbclient, as Jupyter would run them.

An error does not end the run: what comes after it is compared as well, and an error may be what is stored. Only a cell
that takes too long, or a kernel that dies, ends it, and then it is said why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.manager import AsyncKernelManager

from mlvm.errors import KernelError, MlvmError
from mlvm.events import Observer, stage
from mlvm.kernel import kernelspec

if TYPE_CHECKING:
    from nbclient import NotebookClient


@dataclass(kw_only=True, slots=True)
class Run:
    """What came of it: the notebook's document with its new outputs, and why the run ended early, if it did.

    `ran` are the seconds of each code cell that ran to its end, by its place among them.
    """

    content: dict[str, Any]
    ran: dict[int, float] = field(default_factory=dict)
    stopped: str = ""


class _Manager(AsyncKernelManager):
    """Remembers why its kernel ended: afterwards there is no kernel to ask."""

    reason = ""

    async def is_alive(self) -> bool:  # type: ignore[override]  # assigned there, untyped
        """Tell whether the kernel runs."""
        alive = bool(await super().is_alive())
        if not alive:
            self.reason = getattr(self.provisioner, "reason", "") or self.reason
        return alive


def run(
    content: Mapping[str, Any], *, project: Path, machine: str, cwd: Path, timeout: float, observer: Observer
) -> Run:
    """Run a notebook's document in a machine that is up; `cwd` is its folder on the host. Raises KernelError."""
    nbformat, nbclient = _libraries()
    notebook = nbformat.v4.reads(json.dumps(content))
    manager = _Manager(
        kernel_name=f"mlvm-{machine}",
        kernel_spec_manager=kernelspec.SingleSpec(kernelspec.document(machine, project, machine)),
    )
    result = Run(content={})
    client = nbclient.NotebookClient(
        notebook,
        km=manager,
        timeout=int(timeout),
        allow_errors=True,
        startup_timeout=600,
        resources={"metadata": {"path": str(cwd)}},
    )
    _watch(client, notebook, result, observer)
    with stage(observer, "cells") as outcome:
        try:
            client.execute(cleanup_kc=True)
        except nbclient.exceptions.CellTimeoutError:
            result.stopped = f"the cell did not end in {timeout:.0f} s"
        except nbclient.exceptions.DeadKernelError:
            result.stopped = manager.reason.partition("\n")[0] or "the kernel died"
        except KernelError as error:
            # What the provisioner made one text of, for Jupyter, had its parts.
            raise error.__cause__ if isinstance(error.__cause__, MlvmError) else error from None
        outcome.append(f"{len(result.ran)} run")
    result.content = json.loads(nbformat.v4.writes(notebook))
    return result


def _watch(client: NotebookClient, notebook: Any, result: Run, observer: Observer) -> None:
    """Have nbclient tell when cells begin and end."""
    places = [index for index, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    began: dict[int, float] = {}

    def start(cell: Any, cell_index: int) -> None:
        if cell_index in places:
            began[cell_index] = time.monotonic()
            place = places.index(cell_index)
            observer.stage_progress("cells", place, len(places), f"cell {place + 1} of {len(places)}")

    def end(cell: Any, cell_index: int, execute_reply: Any) -> None:
        result.ran[places.index(cell_index)] = round(time.monotonic() - began[cell_index], 3)

    client.on_cell_start = start
    client.on_cell_executed = end


def _libraries() -> tuple[Any, Any]:
    try:
        import nbclient  # noqa: PLC0415  (an extra)
        import nbformat  # noqa: PLC0415
    except ImportError as missing:
        raise MlvmError(
            f"running a notebook needs {missing.name}, which is not installed",
            hint="pip install 'mlvm[reproduce]'",
        ) from None
    return nbformat, nbclient
