"""Kernelspecs are installed, found again and removed; nobody else's is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from mlvm.errors import KernelError, MachineError
from mlvm.kernel import kernelspec
from mlvm.paths import Home
from mlvm.spec.document import Spec

SPEC = Spec(name="sklearn")


def test_what_is_installed(jupyter: Path, tmp_path: Path) -> None:
    done = kernelspec.install(SPEC, tmp_path / "project")

    content = json.loads((done.folder / "kernel.json").read_text())
    place = {"project": str(tmp_path / "project"), "machine": "sklearn"}
    assert done.folder == jupyter / "kernels" / "mlvm-sklearn"
    assert content == {
        "argv": [
            *(sys.executable, "-m", "mlvm.kernel.standalone"),
            *("--project", str(tmp_path / "project"), "--machine", "sklearn", "{connection_file}"),
        ],
        "display_name": "sklearn (mlvm)",
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {
            "debugger": True,
            "supported_encryption": ["curve"],
            "kernel_provisioner": {"provisioner_name": "mlvm", "config": place},
            "mlvm": place,
        },
    }
    assert (done.folder / "logo-svg.svg").read_text().startswith("<svg")


def test_jupyter_finds_it(jupyter: Path, tmp_path: Path) -> None:
    kernelspec.install(SPEC, tmp_path / "project")

    found = KernelSpecManager().get_kernel_spec("mlvm-sklearn")

    assert (found.display_name, found.interrupt_mode, found.language) == (
        "sklearn (mlvm)",
        "message",
        "python",
    )


def test_another_machine_shows_in_the_name(jupyter: Path, tmp_path: Path) -> None:
    done = kernelspec.install(SPEC, tmp_path, name="second", machine="big")

    assert (done.name, done.display_name, done.machine) == ("second", "sklearn: big (mlvm)", "big")


def test_a_prefix(jupyter: Path, tmp_path: Path) -> None:
    done = kernelspec.install(SPEC, tmp_path, prefix=tmp_path / "prefix")

    assert done.folder == tmp_path / "prefix" / "share" / "jupyter" / "kernels" / "mlvm-sklearn"


def test_sys_prefix(jupyter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))

    done = kernelspec.install(SPEC, tmp_path, sys_prefix=True)

    assert done.folder == tmp_path / "venv" / "share" / "jupyter" / "kernels" / "mlvm-sklearn"


def test_list_has_ours_only(jupyter: Path, tmp_path: Path) -> None:
    foreign(jupyter)
    broken = jupyter / "kernels" / "broken"
    broken.mkdir()
    (broken / "kernel.json").write_text("{")

    done = kernelspec.install(SPEC, tmp_path)

    assert kernelspec.installed() == [done]


def test_installing_again_replaces(jupyter: Path, tmp_path: Path) -> None:
    kernelspec.install(SPEC, tmp_path / "old")

    kernelspec.install(SPEC, tmp_path / "new")

    assert [one.project for one in kernelspec.installed()] == [tmp_path / "new"]


def test_somebody_elses_is_not_replaced(jupyter: Path, tmp_path: Path) -> None:
    theirs = foreign(jupyter)

    with pytest.raises(KernelError, match=r"^there is a kernel `theirs` already, and it is not one of ours$"):
        kernelspec.install(SPEC, tmp_path, name="theirs")

    assert theirs.read_text() == FOREIGN


def test_remove(jupyter: Path, tmp_path: Path) -> None:
    done = kernelspec.install(SPEC, tmp_path)

    kernelspec.remove("mlvm-sklearn")

    assert not done.folder.exists()
    assert kernelspec.installed() == []


def test_removing_what_is_not_ours(jupyter: Path, tmp_path: Path) -> None:
    foreign(jupyter)
    kernelspec.install(SPEC, tmp_path)

    with pytest.raises(KernelError, match=r"^there is no kernel of mlvm called `theirs`$") as refused:
        kernelspec.remove("theirs")

    assert refused.value.hint == "installed are: `mlvm-sklearn`"


@pytest.mark.parametrize("name", ["", "Upper", "../up", "a b", "-x", "x" * 64, "a/b", "a\n"])
def test_a_bad_name_is_refused(jupyter: Path, tmp_path: Path, name: str) -> None:
    if name:
        with pytest.raises(KernelError, match=r"cannot be a kernel's name"):
            kernelspec.install(SPEC, tmp_path, name=name)
        with pytest.raises(MachineError, match=r"cannot be a machine's name"):
            kernelspec.install(SPEC, tmp_path, machine=name)
    else:
        with pytest.raises(KernelError, match=r"^`` cannot be a kernel's name$"):
            kernelspec.check_kernel_name(name)


def test_the_launcher_of_a_kernelspec_says_what_is_missing(jupyter: Path, home: Home, tmp_path: Path) -> None:
    argv = json.loads((kernelspec.install(SPEC, tmp_path).folder / "kernel.json").read_text())["argv"]

    done = subprocess.run([*argv[:-1], "/run/connection.json"], check=False, capture_output=True, text=True)

    assert done.returncode == 10
    assert done.stdout == ""
    assert done.stderr.startswith("mlvm: `/run/connection.json` is no connection file that can be served")
    assert "Traceback" not in done.stderr


FOREIGN = '{"argv": ["x"], "display_name": "x", "language": "x"}'


def foreign(jupyter: Path) -> Path:
    """Install a kernelspec that is not ours; return its kernel.json."""
    path = jupyter / "kernels" / "theirs" / "kernel.json"
    path.parent.mkdir(parents=True)
    path.write_text(FOREIGN)
    return path
