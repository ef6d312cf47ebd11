"""Machines of a user who is nobody special: booted, started warm, and forked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlvm.paths import Home, shipped
from mlvm.project import Project

pytestmark = [pytest.mark.boot, pytest.mark.network]

BOX = "python-3.11"
ROOT = Path(__file__).parents[2]
#: When root runs the tests, somebody else must run the machines.
SOMEBODY = 65534
AS_SOMEBODY = [
    "setpriv",
    "--reuid",
    str(SOMEBODY),
    "--regid",
    str(SOMEBODY),
    "--clear-groups",
    "--no-new-privs",
]


class User:
    """An ordinary user with a home, where mlvm keeps everything."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.become = AS_SOMEBODY if os.getuid() == 0 else []
        self.python, self.env = sys.executable, {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        if self.become and not self.can_run():
            # This Python lies in a folder of root's; another one may use what is installed for it.
            self.python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
            self.env["PYTHONPATH"] = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])

    def can_run(self) -> bool:
        """Tell whether this user can run mlvm at all."""
        command = [*self.become, self.python, "-c", "import mlvm.cli, qemu.qmp"]
        return (
            subprocess.run(command, env=self.env, cwd="/", capture_output=True, check=False).returncode == 0
        )

    def mlvm(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run mlvm as this user."""
        env = {**self.env, "HOME": str(self.home), "MLVM_HOME": str(self.home), "MLVM_WARM": "on"}
        return subprocess.run(
            [*self.become, self.python, "-m", "mlvm.cli", *words],
            env=env,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=1500,
            check=check,
        )


@pytest.fixture(scope="module")
def user(chain_home: Home) -> Iterator[User]:
    """A user whose store has an image, and who has no machines yet."""
    Project(folder=shipped("boxes") / BOX, home=chain_home).build(frozen=True)
    home = Path(tempfile.mkdtemp(prefix="mlvm-u-"))  # pytest's own folders are closed to others
    made = User(home)
    store = home / "cache" / "store"
    store.mkdir(parents=True)
    for part in ("artifacts", "tools", "images"):
        subprocess.run(["cp", "-a", "--sparse=always", chain_home.store / part, store / part], check=True)
    if made.become:
        subprocess.run(["chown", "-R", f"{SOMEBODY}:{SOMEBODY}", home], check=True)
        if not made.can_run():
            shutil.rmtree(home)
            pytest.skip("this checkout is closed to other users")
    try:
        yield made
    finally:
        for name in ("cold", "warm", "warm-2"):
            made.mlvm("destroy", "--yes", name, "--progress", "none", check=False)
        shutil.rmtree(home)


def test_a_machine_boots(user: User) -> None:
    began = user.mlvm("up", BOX, "--name", "cold", "--cold", "--frozen", "--progress", "plain")

    assert "init" in began.stderr
    assert user.mlvm("run", "cold", "--", "hostname").stdout == "cold\n"
    user.mlvm("destroy", "--yes", "cold")


def test_a_machine_starts_warm(user: User) -> None:
    """The RAM of all copies belongs to this user, and nobody else may read it."""
    user.mlvm("build", BOX, "--warm", "--frozen", "--progress", "none")

    began = user.mlvm("up", BOX, "--name", "warm", "--frozen", "--progress", "plain")

    assert "its kernel waits" in began.stderr
    assert "cold start" not in began.stderr
    assert user.mlvm("run", "warm", "--", "hostname").stdout == "warm\n"
    (ram,) = user.home.glob("cache/store/warm/*/ram.img")
    assert (ram.stat().st_mode & 0o777, ram.stat().st_uid) == (
        0o600,
        SOMEBODY if user.become else os.getuid(),
    )


def test_a_machine_is_forked(user: User) -> None:
    user.mlvm("run", "warm", "--", "sh", "-c", "echo here > /home/mlvm/file")

    assert "machine `warm-2` is running" in user.mlvm("fork", "warm", "--progress", "none").stdout

    assert user.mlvm("run", "warm-2", "--", "sh", "-c", "hostname; cat file").stdout == "warm-2\nhere\n"
    user.mlvm("destroy", "--yes", "warm")
    user.mlvm("stop", "warm-2", "--progress", "none")
    user.mlvm("up", BOX, "--name", "warm-2", "--frozen", "--progress", "none")
    assert user.mlvm("run", "warm-2", "--", "cat", "file").stdout == "here\n"
