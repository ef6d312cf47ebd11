"""Capturing: what a lock can hold is in the spec, of everything else it is said why not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mlvm.cli import run
from mlvm.errors import MlvmError, ProgramError, SpecError
from mlvm.paths import SPEC_NAME
from mlvm.spec.capture import conda, names, notebook, source
from mlvm.spec.capture.files import poetry_range
from mlvm.spec.capture.found import Found, draft_of
from mlvm.spec.document import Spec
from mlvm.spec.reader import loads

LOOSE = "no version is said, so the lock takes the newest that fit"
NO_PYTHON = "python: no version is said; 3.11 is used"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder called `old`, to stand in."""
    made = tmp_path / "old"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


def captured(folder: Path, name: str, text: str) -> tuple[Spec, list[str]]:
    """Return the spec that a file gives, and what is not pinned."""
    (folder / name).write_text(text)
    draft, left = draft_of(source.read(folder / name, None, folder), folder)
    return loads(draft, path=folder / SPEC_NAME), list(left)


def test_requirements(folder: Path) -> None:
    spec, left = captured(
        folder, "requirements.txt", "numpy==1.26.4\npandas[excel]>=2 ; python_version > '3'\n"
    )

    assert (spec.name, spec.packages) == ("old", ("numpy==1.26.4", 'pandas[excel]>=2; python_version > "3"'))
    assert left == [NO_PYTHON]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-e .", "requirements.txt:1: `-e .` is an editable install, which no lock can pin"),
        ("./x.whl", "requirements.txt:1: `./x.whl`: left out: URLs, local files and folders"),
        ("git+https://x/y.git@main", ("requirements.txt:1: `git+https://x/y.git@main`: from version control; "
         "name a release of it")),
        ("y @ git+ssh://x/y", "requirements.txt:1: `y @ git+ssh://x/y`: from version control; name a release of it"),
        ("-c c.txt", "requirements.txt:1: `-c c.txt`: left out: constraint files; write the bounds as requirements"),
        ("numpy = 1", ("requirements.txt:1: `numpy = 1` is not a requirement: a single `=` is conda's; "
         "write `numpy==1`")),
        ("pip==23", "pip: tools of the host, not what runs"),
        ("ipykernel==6.0", "ipykernel: part of the kernel, of which each box has its own"),
        ("pywin32==306", "pywin32: it is for another system than the guest's"),
    ],
)  # fmt: skip
def test_what_a_lock_cannot_hold_is_left_out(folder: Path, line: str, said: str) -> None:
    spec, left = captured(folder, "requirements.txt", f"{line}\nsix==1.16.0\n")

    assert (spec.packages, left) == (("six==1.16.0",), [said, NO_PYTHON])


@pytest.mark.parametrize(
    ("text", "packages", "said"),
    [
        ("torch==2.1.0+cu121", ("torch==2.1.0",), "torch: pinned as 2.1.0; PyPI has no 2.1.0+cu121"),
        ("six", ("six",), f"six: {LOOSE}"),
        ("six==1\nSix==2", ("six==1",), "`six==2`: `six==1` came before it"),
        ("six==1\nsix==2; python_version > '3'", ("six==1",),
         '`six==2; python_version > "3"`: `six==1` came before it'),
    ],
)  # fmt: skip
def test_what_is_taken_otherwise(folder: Path, text: str, packages: tuple[str, ...], said: str) -> None:
    spec, left = captured(folder, "requirements.txt", text)

    assert (spec.packages, left) == (packages, [said, NO_PYTHON])


def test_what_conda_s_pip_freeze_says(folder: Path) -> None:
    spec, left = captured(folder, "requirements.txt", "numpy @ file:///croot/numpy_1667233465264/work\n")

    assert spec.packages == ("numpy",)
    assert left[0] == "requirements.txt:1: numpy was built by conda, and its version is not said"


def test_pyproject(folder: Path) -> None:
    text = (
        '[project]\nname = "My Thing"\nrequires-python = ">=3.12"\ndependencies = ["six==1.16.0"]\n'
        '[project.optional-dependencies]\ntest = ["pytest"]\n'
    )

    spec, left = captured(folder, "pyproject.toml", text)

    assert (spec.name, spec.python, spec.packages) == ("my-thing", "3.13", ("six==1.16.0",))
    assert left == ["optional dependencies (test): not taken"]


def test_poetry(folder: Path) -> None:
    text = (
        '[tool.poetry.dependencies]\npython = "^3.9"\nnumpy = "^1.22.3"\nb = {git = "https://x"}\n'
        'c = {version = "~2.1", extras = ["x"], markers = "python_version > \'3\'"}\nd = ">=1 || <0"\n'
        'e = {version = "1", optional = true}\n[tool.poetry.group.dev.dependencies]\npytest = "*"\n'
    )

    spec, left = captured(folder, "pyproject.toml", text)

    assert spec.packages == ("numpy<2,>=1.22.3", 'c[x]<2.2,>=2.1; python_version > "3"')
    assert left == [
        "b: from git `https://x`, not from an index",
        "d: the range `>=1 || <0` cannot be translated",
        "e: wanted only sometimes; add it to `packages` if it is",
        "groups (dev): not taken",
    ]


@pytest.mark.parametrize(
    ("text", "range_"),
    [
        ("*", ""),
        ("^1.2.3", ">=1.2.3,<2"),
        ("^0.2.3", ">=0.2.3,<0.3"),
        ("^0.0.3", ">=0.0.3,<0.0.4"),
        ("^0", ">=0,<1"),
        ("~1.2.3", ">=1.2.3,<1.3"),
        ("~1", ">=1,<2"),
        ("1.2.3", "==1.2.3"),
        ("1.*", "==1.*"),
        (">=1.2, <2", ">=1.2,<2"),
        ("~=1.4", "~=1.4"),
        ("1 || 2", None),
        ("latest", None),
    ],
)
def test_poetry_s_ranges(text: str, range_: str | None) -> None:
    assert poetry_range(text) == range_


@given(st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_a_caret_takes_its_own_version_and_not_the_next(numbers: list[int]) -> None:
    version = ".".join(map(str, numbers))
    found = SpecifierSet(poetry_range(f"^{version}") or "")

    assert Version(version) in found
    assert Version(f"{numbers[0] + 1}.0") not in found


CONDA = """\
name: deep
channels: [conda-forge]
dependencies:
  - _libgcc_mutex=0.1=main
  - python=3.11.4
  - numpy=1.26
  - pandas>=1.3,<2
  - conda-forge::scikit-learn==1.2.2
  - pytorch=2.1.0=py3.11_cuda12.1_cudnn8.9.2_0
  - pytorch-cuda=12.1
  - numexpr 2.8.*
  - zstd=1.5.5=hc292b87_0
  - git
  - ffmpeg=4.2.2
  - pip:
    - requests==2.31.0
    - -e .
"""


def test_conda(folder: Path) -> None:
    spec, left = captured(folder, "environment.yml", CONDA)

    assert (spec.name, spec.python, spec.apt) == ("deep", "3.11", ("git", "ffmpeg"))
    assert spec.packages == (
        "numpy==1.26.*",
        "pandas<2,>=1.3",
        "scikit-learn==1.2.2",
        "torch==2.1.0",
        "numexpr==2.8.*",
        "requests==2.31.0",
    )
    assert left == [
        'pytorch-cuda: `cuda: {version: "12.1"}` in the spec asks for CUDA (docs/cuda.md)',
        "ffmpeg: Debian's version is taken, not 4.2.2",
        "pip: `-e .` is an editable install, which no lock can pin",
        "only conda has these, or they are no Python packages: _libgcc_mutex, zstd",
    ]


@pytest.mark.parametrize(
    ("version", "exact", "found"),
    [
        ("", False, ""),
        ("=1.2", False, "==1.2.*"),
        ("=1.2.3", False, "==1.2.3"),
        ("=1.2", True, "==1.2"),
        ("==1.2", False, "==1.2"),
        ("1.2.*", False, "==1.2.*"),
        (">=1.2,<2", False, ">=1.2,<2"),
        (">=1.2.*", False, ">=1.2"),
        ("1.2|1.3", False, None),
        ("9e", False, None),
    ],
)
def test_conda_s_versions(version: str, exact: bool, found: str | None) -> None:
    assert conda.specifier(version, exact=exact) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "is no environment of conda's"),
        ("name: x\n", "has no list of `dependencies`"),
        ("a: [\n", "cannot be read as YAML"),
        ("!!python/object/apply:os.system ['true']\n", "cannot be read as YAML"),
    ],
)
def test_what_is_no_environment(folder: Path, text: str, message: str) -> None:
    (folder / "environment.yml").write_text(text)

    with pytest.raises(SpecError, match=message):
        source.read(folder / "environment.yml", None, folder)


def test_an_environment_that_holds_itself(folder: Path) -> None:
    spec, left = captured(folder, "environment.yml", "dependencies: &a [*a, six==1.16.0]\n")

    assert spec.packages == ("six==1.16.0",)
    assert left[0].endswith("not understood")


CELLS = [
    "%pip install -q numpy==1.26.4 'pandas<2.2' \\\n   -r more.txt\n!conda install -y -c conda-forge scikit-learn=1.3",
    "%%time\nimport numpy as np, pandas, sklearn.svm, os, helper, weird_thing, IPython\nfrom PIL import Image",
    "%%bash\npip install six\nls",
    "%%javascript\nimport x from 'y'",
    "!{sys.executable} -m pip install -U git+https://x/y {pkg} tqdm==4.66.1 && ls",
    "print('pip install nothing')",
]


def write_notebook(folder: Path, cells: list[str], **metadata: object) -> Path:
    made = [{"cell_type": "code", "source": source} for source in cells]
    content = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}
    (folder / "x.ipynb").write_text(json.dumps(content))
    return folder / "x.ipynb"


def test_a_notebook(folder: Path) -> None:
    (folder / "helper.py").touch()
    (folder / "more.txt").write_text("requests==2.31.0\n")
    path = write_notebook(folder, CELLS, language_info={"name": "python", "version": "3.8.10"})

    draft, left = draft_of(source.read(path, None, folder), folder)

    assert loads(draft).packages == (
        "numpy==1.26.4",
        "pandas<2.2",
        "requests==2.31.0",
        "scikit-learn==1.3.*",
        "six",
        "tqdm==4.66.1",
        "pillow",
    )
    assert list(left) == [
        "`{pkg}`: a variable, whose value only a run would show",
        "pip install: `git+https://x/y`: from version control; name a release of it",
        "import weird_thing: it is not known which package brings it; add that to `packages`",
        f"six, pillow: {LOOSE}",
        "python 3.8: no box has it; 3.9 is used, for which old pins may have no wheels",
    ]


def test_a_notebook_in_another_language(folder: Path) -> None:
    path = write_notebook(folder, [], kernelspec={"language": "R"})

    with pytest.raises(SpecError, match="is a notebook in r; boxes run Python"):
        source.read(path, None, folder)


def test_this_interpreter(folder: Path) -> None:
    found = source.read(None, sys.executable, folder)

    spec = loads(draft_of(found, folder)[0])
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert any(text.startswith("pytest==") for text in spec.packages)
    assert not any(text.startswith(("pip==", "ipykernel==")) for text in spec.packages)


def test_what_is_no_interpreter(folder: Path) -> None:
    with pytest.raises(ProgramError):
        source.read(None, "/nowhere/python", folder)
    with pytest.raises(SpecError, match=r"is no Python 3\.8 or later"):
        source.read(None, "/bin/echo", folder)


def test_neither_a_file_nor_an_interpreter(folder: Path) -> None:
    (folder / "requirements.txt").touch()

    with pytest.raises(SpecError) as raised:
        source.read(None, None, folder)

    assert (raised.value.details, raised.value.hint) == (
        "here are: requirements.txt",
        "mlvm capture requirements.txt",
    )


def test_what_was_left_out_is_in_the_spec_as_comments(folder: Path) -> None:
    draft, _ = draft_of(Found(what="x\ny: z", packages=(), left=("a\nname: evil",), python="3.11"), folder)

    assert draft.startswith(
        "# Captured from x\\ny: z by `mlvm capture`.\n# Not pinned:\n#   a\\nname: evil\nname: old\n"
    )


NOISE = st.text(alphabet="ab-_.=<>!~^|*@:/[]{}'\"#,; \n\\%1", max_size=60)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    NOISE,
    st.sampled_from(["requirements.txt", "pyproject.toml", "environment.yml", "poetry", "deps", "cell"]),
)
def test_whatever_a_file_says_gives_a_spec_or_a_reason(folder: Path, text: str, name: str) -> None:
    if name == "cell":
        path = write_notebook(folder, [f"%pip install {text}", f"!conda install {text}", text])
    else:
        path = folder / {"poetry": "pyproject.toml", "deps": "environment.yml"}.get(name, name)
        quoted = json.dumps(text)
        around = {
            "poetry": f"[tool.poetry.dependencies]\na = {quoted}\nb = {{version = {quoted}}}\npython = {quoted}\n",
            "deps": f"dependencies:\n  - {quoted}\n  - pip: [{quoted}]\n",
        }
        path.write_text(around.get(name, text))
    try:
        draft, _ = draft_of(source.read(path, None, folder), folder)
    except MlvmError:
        return
    assert loads(draft).debian


def test_the_tables_do_not_contradict_each_other() -> None:
    assert not names.SAME & names.RENAMED.keys()
    assert not names.CONDA_ONLY & names.FROM_DEBIAN.keys()


def test_install_lines_of_every_kind() -> None:
    lines = [
        "!pip3 install a",
        "%pip install b",
        "!python3.9 -m pip install c",
        "!uv pip install d",
        "pip install e",
    ]

    assert [line.split()[-1] for line in notebook.install_lines(lines)] == list("abcde")


def test_the_command_writes_a_spec_and_never_over_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "requirements.txt").write_text("six==1.16.0\n-e .\n")

    first = run(["capture", "requirements.txt", "--no-lock"])
    said = capsys.readouterr().out.splitlines()
    before = (folder / SPEC_NAME).read_text()
    (folder / "requirements.txt").write_text("six==1.15.0\n")
    second = run(["capture", "requirements.txt", "--no-lock"])
    kept = (folder / SPEC_NAME).read_text()
    third = run(["capture", "requirements.txt", "--no-lock", "--force"])

    assert (first, second, third) == (0, 3, 0)
    assert said[1] == "not pinned: requirements.txt:2: `-e .` is an editable install, which no lock can pin"
    assert said[-1] == "next: mlvm lock"
    assert kept == before
    assert "six==1.15.0" in (folder / SPEC_NAME).read_text()
