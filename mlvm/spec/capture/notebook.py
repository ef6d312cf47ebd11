"""A notebook: what its cells import, what they install, and the Python it was last run with."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from mlvm.errors import SpecError
from mlvm.spec import imports, ipynb, requirements
from mlvm.spec.capture import conda, names
from mlvm.spec.capture.files import lenient
from mlvm.spec.capture.found import Found
from mlvm.spec.complaints import Place, Report, shown

_INSTALL = re.compile(
    r"^\s*[%!]?\s*(?:sudo\s+)?(?:(?:\{?sys\.executable\}?|\S*python[\d.]*)\s+-m\s+)?"
    r"(?P<tool>pip[\d.]*|uv pip|conda|mamba)\s+install\s+(?P<words>.*)$"
)
#: Options of installers that are followed by a value of theirs.
_VALUED = frozenset(
    {"-i", "--index-url", "--extra-index-url", "-f", "--find-links", "-t", "--target", "-c", "-n"}
)
_GONE = frozenset({"imp", "distutils", "asynchat", "asyncore", "smtpd", "cgi", "crypt", "pipes", "telnetlib"})


def from_notebook(path: Path) -> Found:
    """Read a notebook. Raises MlvmError for what is none, or not in Python."""
    notebook = ipynb.read(path)
    if notebook.language not in {"python", "ipython"}:
        raise SpecError(f"`{path.name}` is a notebook in {shown(notebook.language)}; boxes run Python")
    cells = list(notebook.codes())
    left: list[str] = []
    gathered = conda.Gathered()
    for line in install_lines(cells):
        _take(line, path, gathered)
    asked = {_name(text) for text in gathered.packages}
    imported = _imported(cells, path.absolute().parent, left)
    packages = [*gathered.packages, *(one for one in imported if canonicalize_name(one) not in asked)]
    return Found(
        what=path.name,
        packages=tuple(packages),
        left=(*gathered.left, *left),
        python=notebook.python,
        apt=tuple(gathered.apt),
    )


def install_lines(cells: list[str]) -> Iterator[str]:
    """Yield what stands behind `pip install` and `conda install` in cells: the tool, and the words."""
    for cell in cells:
        shell = cell.lstrip().startswith(("%%bash", "%%sh", "%%script"))
        joined = re.sub(r"\\\n\s*", " ", cell)
        for line in joined.splitlines():
            found = _INSTALL.match(line)
            if found and (shell or line.lstrip().startswith(("%", "!"))):
                yield f"{found['tool']} {found['words']}"
            elif found and re.match(r"\s*pip\s", line) and "(" not in line and "=" not in line.split()[0]:
                yield f"pip {found['words']}"  # IPython's automagic


def _take(line: str, path: Path, gathered: conda.Gathered) -> None:
    """Take one line of an installer."""
    try:
        words = shlex.split(re.split(r"\s[;&|>]|&&|2>", line)[0], comments=True)
    except ValueError:
        gathered.left.append(f"`{shown(line)}`: not understood")
        return
    tool, rest = words[0], [word for word in words[1:] if word not in {"pip", "install"}]
    wanted: list[str] = []
    while rest:
        word = rest.pop(0)
        if word in {"-r", "--requirement", "-e", "--editable"} and rest:
            wanted.append(f"{word} {rest.pop(0)}")
        elif word in _VALUED and rest:
            value = rest.pop(0)
            if "index" in word or word == "-i":
                gathered.left.append(f"index {shown(value)}: `index` in the spec takes packages from there")
        elif re.search(r"[{}$]", word):
            gathered.left.append(f"`{shown(word)}`: a variable, whose value only a run would show")
        elif not word.startswith("-"):
            wanted.append(word)
    if tool in {"conda", "mamba"}:
        for word in wanted:
            conda.take(word, gathered)
        return
    report = Report()
    found = requirements.read_lines(wanted, path, Place(report=report))
    lost, left = lenient(report, path)
    gathered.packages += [*(one.text for one in found), *lost]
    gathered.left += [re.sub(r"^[^:]*:\d+", "pip install", one) for one in left]


def _imported(cells: list[str], folder: Path, left: list[str]) -> Iterator[str]:
    modules = {name: None for cell in cells for name in imports.modules_in(imports.python_of(cell))}
    installed: Mapping[str, list[str]] | None = None
    for module in modules:
        if module in sys.stdlib_module_names or module in _GONE or module in names.THERE:
            continue
        if (folder / f"{module}.py").is_file() or (folder / module).is_dir():
            continue  # it comes with the notebook's folder
        package = names.package_of(module)
        if package is None:
            installed = metadata.packages_distributions() if installed is None else installed
            found = sorted({canonicalize_name(one) for one in installed.get(module, [])})
            package = found[0] if len(found) == 1 else None
        if package is None:
            left.append(
                f"import {shown(module)}: it is not known which package brings it; add that to `packages`"
            )
        else:
            yield package


def _name(text: str) -> str:
    return canonicalize_name(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0])
