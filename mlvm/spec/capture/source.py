"""From a file, or an interpreter, to what is found in it: which reader is for what."""

from __future__ import annotations

from pathlib import Path

from mlvm.errors import SpecError
from mlvm.spec.capture import conda, files, interpreter, notebook
from mlvm.spec.capture.found import Found

#: What `mlvm capture` without a file could have meant, in a folder.
USUAL = ("requirements.txt", "pyproject.toml", "environment.yml", "environment.yaml", "*.ipynb")


def read(path: Path | None, python: str | None, folder: Path) -> Found:
    """Return what is found in a file, or in interpreter `python`. Raises MlvmError."""
    if (path is None) == (python is None):
        there = [found.name for usual in USUAL for found in sorted(folder.glob(usual))]
        raise SpecError(
            "name either a file or an interpreter to capture",
            details=f"here are: {', '.join(there[:20])}" if there else "",
            hint=f"mlvm capture {there[0]}" if there else "mlvm capture --python .venv/bin/python",
        )
    if python is not None:
        return interpreter.from_interpreter(python)
    assert path is not None
    if not path.is_file():
        raise SpecError(f"there is no file `{path}`", hint="mlvm capture FILE, or mlvm capture --python PATH")
    if path.suffix == ".ipynb":
        return notebook.from_notebook(path)
    if path.suffix == ".toml":
        return files.from_pyproject(path)
    if path.suffix in {".yml", ".yaml"}:
        return conda.from_environment(path)
    if path.suffix in {".txt", ".in"}:
        return files.from_requirements(path)
    raise SpecError(
        f"`{path.name}` is nothing that can be captured",
        hint="requirements.txt, pyproject.toml, environment.yml, or a notebook (.ipynb)",
    )
