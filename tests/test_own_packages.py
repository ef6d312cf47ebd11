"""A package of the project in a real machine: what is saved on the host is what the machine imports next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlvm.paths import Home

pytestmark = [pytest.mark.boot, pytest.mark.network, pytest.mark.heavy]

PYPROJECT = """\
[project]
name = "own-package"
version = "1.2"
dependencies = ["tomlkit"]
[project.scripts]
own = "own_package:main"
"""
CODE = "import tomlkit\n\ndef main():\n    print({word!r})\n"
TELL = "import importlib.metadata as m, own_package as o; print(m.version('own-package'), o.__file__)"


def mlvm(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlvm.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=1200)


def test_an_edit_on_the_host_is_there_at_once(chain_home: Home, tmp_path: Path) -> None:
    code = tmp_path / "src" / "own_package.py"
    code.parent.mkdir()
    code.write_text(CODE.format(word="first"))
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "mlvm.yaml").write_text("name: own\neditable: [.]\nmachine: {memory: 1 GiB}\n")
    up = mlvm("up", cwd=tmp_path)
    assert up.returncode == 0, up.stderr
    try:
        first = mlvm("run", "own", "--", "own", cwd=tmp_path)
        code.write_text(CODE.format(word="another word"))
        second = mlvm("run", "own", "--", "own", cwd=tmp_path)
        told = mlvm("run", "own", "--", "python", "-c", TELL, cwd=tmp_path)

        assert (first.stdout, second.stdout) == ("first\n", "another word\n"), second.stderr
        assert told.stdout == "1.2 /opt/mlvm/editable/own-package/src/own_package.py\n"
    finally:
        mlvm("destroy", "--yes", "own", cwd=tmp_path)
