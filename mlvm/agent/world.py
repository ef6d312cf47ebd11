"""The world the agent lives in: all of the guest that a test on the host must be able to replace."""

from __future__ import annotations

import os
import pwd
from typing import NamedTuple

VERSION = 1


class World(NamedTuple):
    """Places and names; the defaults are the guest's."""

    #: Who runs programs and kernels unless a request names somebody else.
    user: str = "mlvm"
    python: str = "/opt/mlvm/venv/bin/python"
    #: Where kernels listen: the address QEMU's user network forwards to.
    kernel_ip: str = "10.0.2.15"
    kernels: str = "/run/mlvm/kernels"
    logs: str = "/var/log/mlvm"


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
