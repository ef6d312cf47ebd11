"""The guest's end of `push` and `pull`: run once in a guest's kernel, together with the text of `crate`.

Crates travel as the buffers of comm messages, which no frontend sees. Python 3.9; imports nothing of mlvm but `crate`,
which stands beside it in a module of no package, so that none of the user's names is touched.
"""

from __future__ import annotations

import sys
from typing import Any

TARGET = "mlvm.crate"


def serve(crate: Any) -> None:
    """Answer for crates from now on."""
    from IPython import get_ipython  # noqa: PLC0415

    shell = get_ipython()

    def took(comm: Any, message: Any) -> None:
        """Take a crate in, or send one."""
        data = message["content"]["data"]
        try:
            if data["verb"] == "push":
                values = crate.opened([bytes(one) for one in message["buffers"]], trusted=True)
                shell.user_ns.update(values)
                comm.send({"ok": sorted(values)})
            else:
                comm.send({"ok": data["names"]}, buffers=pulled(data))
        except crate.CrateError as error:
            comm.send({"error": str(error)})
        finally:
            comm.close()

    def pulled(data: Any) -> list[Any]:
        missing = [name for name in data["names"] if name not in shell.user_ns]
        if missing:
            raise crate.CrateError("there is no `" + "`, no `".join(missing) + "`")
        values = {name: shell.user_ns[name] for name in data["names"]}
        buffers: list[Any] = crate.packed(values, pickled=data["pickled"], arrow=data["arrow"])
        size = sum(len(one) for one in buffers)
        if size > data["limit"]:
            raise crate.CrateError(f"it is {size} bytes, and no more than {data['limit']} may cross")
        return buffers

    shell.kernel.comm_manager.register_target(TARGET, took)
    sys.modules["_mlvm_crate"] = crate
