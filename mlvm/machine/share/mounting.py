"""The MOUNT protocol (RFC 1813, appendix I): a folder's number as a path, answered with its first handle."""

from __future__ import annotations

from collections.abc import Callable

from mlvm.machine.share.rpc import Program
from mlvm.machine.share.tree import Tree
from mlvm.machine.share.xdr import Reader, opaque, u32

NUMBER, VERSION = 100005, 3
NO_ENTRY = 2
AUTH_SYS = 1


def program(trees: Callable[[int], Tree | None]) -> Program:
    """Return the RPC program over the trees that there are."""

    def mount(call: Reader) -> bytes:
        path = call.opaque(1024).decode("ascii", "replace").lstrip("/")
        tree = trees(int(path)) if path.isdecimal() and len(path) < 4 else None
        if tree is None:
            return u32(NO_ENTRY)
        return u32(0) + opaque(tree.root.handle) + u32(1) + u32(AUTH_SYS)

    def unmount(call: Reader) -> bytes:
        call.opaque(1024)
        return b""

    return Program(
        number=NUMBER, version=VERSION, procedures={0: lambda _: b"", 1: mount, 3: unmount, 4: lambda _: b""}
    )
