"""The world the agent lives in: all of the guest that a test on the host must be able to replace."""

from __future__ import annotations

import os
import pwd

VERSION = 1


class World:
    """Places and names; the defaults are the guest's."""

    def __init__(
        self,
        *,
        user: str = "mlvm",
        python: str = "/opt/mlvm/venv/bin/python",
        kernel_ip: str = "10.0.2.15",
        kernels: str = "/run/mlvm/kernels",
        logs: str = "/var/log/mlvm",
    ) -> None:
        #: Who runs programs and kernels unless a request names somebody else.
        self.user = user
        self.python = python
        #: Where kernels listen: the address QEMU's user network forwards to.
        self.kernel_ip = kernel_ip
        self.kernels = kernels
        self.logs = logs

    def log(self, kernel_id: str) -> str:
        """Return the path of what a kernel writes to its own stdout and stderr."""
        return f"{self.logs}/kernel-{kernel_id}.log"


def chosen(arguments: list[str]) -> tuple[World, str | None, bool]:
    """Return the world that `--NAME VALUE...` describe, the folder of `--sockets`, whether a kernel starts `--early`.

    Sockets are for whatever is no guest of QEMU's; in one that is, a kernel is started early.
    """
    pairs = zip(arguments[::2], arguments[1::2])  # noqa: B905 - not in 3.9
    names = {name.lstrip("-").replace("-", "_"): value for name, value in pairs}
    sockets = names.pop("sockets", None)
    early = names.pop("early", "no" if sockets else "yes") == "yes"
    return World(**names), sockets, early


def account(name: str) -> pwd.struct_passwd:
    """Return the account called `name`. Raises LookupError with words for a person."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise LookupError(f"there is no user `{name}` in the guest") from None


def groups_of(who: pwd.struct_passwd) -> list[int]:
    """Return all groups of an account, its own first."""
    return os.getgrouplist(who.pw_name, who.pw_gid)


def environment_of(world: World, who: pwd.struct_passwd, extra: dict[str, str]) -> dict[str, str]:
    """Return the environment a program of `who` starts with: a login's, with the venv, and `extra`."""
    venv = os.path.dirname(world.python)  # noqa: PTH120
    path = f"{venv}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {
        "HOME": who.pw_dir,
        "LANG": "C.UTF-8",
        "LOGNAME": who.pw_name,
        "PATH": path,
        "SHELL": who.pw_shell or "/bin/sh",
        "USER": who.pw_name,
        **extra,
    }


def identity_of(who: pwd.struct_passwd) -> dict[str, object]:
    """Return Popen's arguments that make a child run as `who`; none where the agent is that user already."""
    if os.getuid() == who.pw_uid:
        return {}
    return {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": groups_of(who)}
