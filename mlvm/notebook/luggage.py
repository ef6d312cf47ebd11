"""`%mlvm push` and `%mlvm pull`: variables across, in a crate.

A guest is foreign. What is pulled is rebuilt from plain data, which can run nothing here; `--trust` is for what only a
pickle can carry. What is pushed may be pickled: the guest runs the host's code anyhow.
"""

from __future__ import annotations

import queue
import re
import time
import uuid
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from mlvm.errors import KernelError
from mlvm.notebook import crate, crate_guest
from mlvm.notebook.cells import died
from mlvm.notebook.guest_kernel import GuestKernel
from mlvm.notebook.link import COMMS, Heard

HEADER = ("variable", "what", "size", "")
UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}

#: Makes a guest's kernel ready for crates; what it needs comes as text, for no file of ours is there.
SETTING_UP = """\
if '_mlvm_crate' not in __import__('sys').modules:
    (lambda crate, guest: (exec({crate!r}, crate.__dict__), exec({guest!r}, guest.__dict__), guest.serve(crate)))(
        *map(__import__('types').ModuleType, ('_mlvm_crate', '_mlvm_crate_guest')))
"""


def limit_of(text: str) -> int:
    """Read a size like `200 MB`. Raises KernelError."""
    found = re.fullmatch(r"([\d.]+)\s*([a-zA-Z]*)", text.strip("\"' "))
    if found is None or found[2].lower() not in UNITS or found[1].count(".") > 1 or found[1] == ".":
        raise KernelError(f"`{text}` is no size", hint='write it like "200 MB" or "1 GiB"')
    return int(float(found[1]) * UNITS[found[2].lower()])


def push(
    kernel: GuestKernel, here: Mapping[str, object], names: Sequence[str], *, limit: int
) -> list[tuple[str, ...]]:
    """Copy variables `names` of `here` into the guest; return a row each. Raises KernelError, nothing copied."""
    values: dict[str, object] = {}
    for name in names:
        if name not in here:
            raise KernelError(f"there is no variable `{name}` on the host")
        values[name] = here[name]
    began = time.monotonic()
    arrow = _prepare(kernel)
    try:
        buffers = crate.packed(values, pickled=True, arrow=arrow)
    except crate.CrateError as error:
        raise KernelError(f"cannot push: {error}") from error
    _check(sum(len(one) for one in buffers), limit)
    _ask(kernel, {"verb": "push"}, buffers)
    return _rows(buffers, time.monotonic() - began)


def pull(
    kernel: GuestKernel, here: MutableMapping[str, object], names: Sequence[str], *, limit: int, trust: bool
) -> list[tuple[str, ...]]:
    """Copy variables `names` of the guest to `here`; return a row each. Raises KernelError, nothing copied."""
    if bad := [name for name in names if not name.isidentifier()]:
        raise KernelError(f"`{bad[0]}` is no name of a variable")
    began = time.monotonic()
    _prepare(kernel)
    wanted = {
        "verb": "pull",
        "names": list(names),
        "pickled": trust,
        "arrow": crate.arrow_here(),
        "limit": limit,
    }
    buffers = _ask(kernel, wanted, ())
    _check(sum(len(one) for one in buffers), limit)
    try:
        values = crate.opened(buffers, trusted=trust)
    except crate.CrateError as error:
        raise KernelError(
            f"cannot pull: {error}", hint=TRUST_HINT if "pickle" in str(error) else ""
        ) from error
    if sorted(values) != sorted(set(names)):
        raise KernelError("the guest sent other variables than it was asked for; nothing was copied")
    here.update(values)
    return _rows(buffers, time.monotonic() - began)


TRUST_HINT = (
    "make it an array, a frame or a dict; or `--trust`: what the guest sends may then run code on the host"
)


def _prepare(kernel: GuestKernel) -> bool:
    """Make the guest's kernel ready for crates; return whether frames can go to it by Arrow."""
    code = SETTING_UP.format(
        crate=Path(crate.__file__).read_text(), guest=Path(crate_guest.__file__).read_text()
    )
    expressions = {"arrow": "__import__('sys').modules['_mlvm_crate'].arrow_here()"}
    content = {"code": code, "silent": True, "user_expressions": expressions, "stop_on_error": False}
    reply = _wait(kernel, "execute_request", content, ())[0]
    told = (reply.get("user_expressions") or {}).get("arrow") or {}
    if reply.get("status") != "ok" or told.get("status") != "ok":
        raise KernelError(
            "the guest's kernel cannot take variables",
            details=f"{told.get('ename', reply.get('ename', ''))}: {told.get('evalue', reply.get('evalue', ''))}",
        )
    return bool(told["data"]["text/plain"] == "True")


def _ask(kernel: GuestKernel, data: Mapping[str, Any], buffers: Sequence[Any]) -> list[memoryview]:
    """Open a comm for one crate; return the buffers that come back. Raises KernelError with the guest's words."""
    content = {"comm_id": uuid.uuid4().hex, "target_name": crate_guest.TARGET, "data": dict(data)}
    for heard in _wait(kernel, "comm_open", content, buffers)[1]:
        if heard.kind != "comm_msg":
            continue
        told = heard.content()["data"]
        if "ok" in told:
            return [frame.buffer for frame in heard.buffers]
        said = str(told.get("error", ""))
        hint = TRUST_HINT if "cannot cross as plain data" in said else ""
        raise KernelError(f"cannot {data['verb']}: {said}", hint=hint)
    raise KernelError(f"the guest did not answer to {data['verb']}; nothing was copied")


def _wait(
    kernel: GuestKernel, kind: str, content: Mapping[str, Any], buffers: Sequence[Any]
) -> tuple[dict[str, Any], list[Heard]]:
    """Ask the guest something nobody sees; return its reply and what it said. An interrupt goes to the guest, too."""
    events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    heard: list[Heard] = []
    awaits = ("idle",) if kind == "comm_open" else ("reply", "idle")
    request = kernel.link.ask(
        kind,
        content,
        tell=lambda what, value: events.put((what, value)),
        awaits=awaits,
        buffers=buffers,
        catches=COMMS,
    )
    try:
        while True:
            what, value = events.get()
            if what == "done":
                return value, heard
            if what == "lost":
                raise died(value, request, kernel.outcome(request))
            if what == "message":
                heard.append(value)
    except KeyboardInterrupt:
        kernel.link.forget(request)
        kernel.link.interrupt()
        raise


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise KernelError(
            f"that is {shown(size)}, and no more than {shown(limit)} may cross",
            hint=f'--limit "{size / (1 << 30):.1f} GiB"',
        )


def _rows(buffers: Sequence[Any], seconds: float) -> list[tuple[str, ...]]:
    head = crate.head_of(list(buffers))
    rows: list[tuple[str, ...]] = [
        (name, str(head["what"][name]), shown(int(size)), "") for name, size in head["sizes"].items()
    ]
    total = sum(len(one) for one in buffers)
    rows[-1] = (*rows[-1][:3], f"{shown(total)} in {seconds:.2f} s")
    return rows


def shown(size: int) -> str:
    """Write a size for a person."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"
