"""Rules that a machine can check: sizes, imports without side effects, the drawn error tree, shipped documents."""

from __future__ import annotations

import ast
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mlvm
from mlvm import errors
from mlvm.machine.record import Record, save
from mlvm.paths import Home

ROOT = Path(mlvm.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LONGEST_FILE = 500
LONGEST_FUNCTION = 60


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_and_function_sizes(path: Path) -> None:
    """A reader keeps 500 lines of a file and 60 of a function in mind, not more."""
    text = path.read_text()
    functions = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    too_long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 > LONGEST_FUNCTION]

    assert len(text.splitlines()) <= LONGEST_FILE
    assert too_long == []


def test_every_module_has_a_docstring() -> None:
    """A module opens by saying what it is for; only empty package files may be silent."""
    silent = [
        p for p in MODULES if (tree := ast.parse(p.read_text())).body and ast.get_docstring(tree) is None
    ]

    assert silent == []


def test_importing_does_nothing(tmp_path: Path) -> None:
    """Every module can be imported with nothing on PATH and no home, and writes nothing anywhere."""
    names = [m.name for m in pkgutil.walk_packages([str(ROOT)], "mlvm.") if "__main__" not in m.name]
    names = [name for name in names if not name.startswith("mlvm.agent.")]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"

    done = subprocess.run(
        [sys.executable, "-c", code, *names],
        env={"PATH": "", "PYTHONPATH": str(ROOT.parent), "MLVM_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_error_tree_is_drawn() -> None:
    """Every error class stands in the tree at the top of `errors.py`, under its parent."""
    drawn = errors.__doc__ or ""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.MlvmError)]

    missing = [c.__name__ for c in classes if c.__name__ not in drawn]

    assert missing == []


#: What takes long to import, and what it is for. No command may wait for what it does not use.
SLOW = {
    "packages": {"packaging", "yaml", "tomllib", "tomli_w"},
    "the network": {"requests", "urllib3"},
    "notebooks": {"IPython", "ipywidgets", "jupyter_client", "traitlets", "zmq"},
    "machines at work": {"asyncio"},
    "terminals": {"rich"},
    "images": {"tarfile", "zipfile", "mlvm.image.making", "mlvm.lock.debian"},
}


@pytest.mark.parametrize(("verb", "most"), [("--help", 130), ("status", 210)])
def test_quick_commands_import_little(verb: str, most: int, home: Home) -> None:
    """`mlvm --help`, and `mlvm status` with a machine, answer before anything heavy is loaded."""
    machine = Record(name="one", provider="qemu", image_id="0" * 64, project="/nowhere", home=home)
    machine.folder.mkdir(parents=True)
    save(machine)
    code = "import sys\nfrom mlvm.cli import run\ntry: run(sys.argv[1:])\nexcept SystemExit: pass\nprint(*sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", code, verb], capture_output=True, text=True, check=True, env=os.environ
    )
    shown, loaded = done.stdout.splitlines()[:-1], set(done.stdout.splitlines()[-1].split())

    assert shown[1].startswith("one") if verb == "status" else shown[0].startswith("usage:")
    assert {why: names & loaded for why, names in SLOW.items() if names & loaded} == {}
    assert len(loaded) <= most
