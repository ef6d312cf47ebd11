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


def test_help_imports_little() -> None:
    """`mlvm --help` must not wait for packages that only other verbs need."""
    code = "import sys\nfrom mlvm.cli import run\ntry: run(['--help'])\nexcept SystemExit: pass\nprint(*sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    loaded = set(done.stdout.splitlines()[-1].split())

    assert loaded.isdisjoint(
        {"yaml", "requests", "rich", "IPython", "jupyter_client", "zmq", "asyncio", "packaging"}
    )
