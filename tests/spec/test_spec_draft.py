"""First drafts: what `mlvm init` would write is short, right, and read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet

from mlvm.errors import SpecError
from mlvm.paths import SPEC_NAME, shipped
from mlvm.spec import draft
from mlvm.spec.imports import imported_modules
from mlvm.spec.reader import loads
from mlvm.spec.table import pythons_for, valid_name

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder called `My Project`."""
    made = tmp_path / "My Project"
    made.mkdir()
    return made


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that the running Python finds distributions in."""
    made = tmp_path / "site"
    made.mkdir()
    monkeypatch.setattr(sys, "path", [str(made)])
    return made


def install(
    site: Path, name: str, version: str, *, modules: str = "", requires: str = "", url: str = ""
) -> None:
    """Lay down what an installer records of a distribution."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires.split(", ") if line]
    (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
    (info / "top_level.txt").write_text(modules or name)
    if url:
        (info / "direct_url.json").write_text(url)


def test_the_list_of_templates() -> None:
    assert draft.list_templates() == [
        ("minimal", "Python and ipykernel, nothing else"),
        ("science", "NumPy, SciPy, pandas, scikit-learn, Matplotlib"),
    ]


@pytest.mark.parametrize("name", ["minimal", "science"])
def test_a_template_gets_the_folder_s_name_and_keeps_the_rest(name: str, folder: Path) -> None:
    original = (shipped("templates") / f"{name}.yaml").read_text()

    assert draft.draft_from_template(name, folder=folder) == original.replace(
        f"name: {name}", "name: my-project"
    )


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("2024", '"2024"'),
        ("1e5", '"1e5"'),
        ("null", '"null"'),
        ("no", '"no"'),
        ("a: b # c", "a-b-c"),
        ("☃", "box"),
    ],
)
def test_a_name_that_yaml_would_misread(tmp_path: Path, called: str, name: str) -> None:
    (tmp_path / called).mkdir()

    assert f"name: {name}\n" in draft.draft_from_template("minimal", folder=tmp_path / called)


@settings(max_examples=100, deadline=None)
@given(
    st.text(
        alphabet=st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=80
    )
)
def test_any_folder_gives_a_valid_name(called: str) -> None:
    text = draft.draft_from_template("minimal", folder=Path("/nowhere") / called)

    assert loads(text).name == valid_name(Path(f"/nowhere/{called}").name)


def test_an_unknown_template(folder: Path) -> None:
    with pytest.raises(SpecError) as raised:
        draft.draft_from_template("scince", folder=folder)

    assert raised.value.message == "there is no template called `scince`"
    assert raised.value.details == "shipped templates: minimal, science"
    assert raised.value.hint == "mlvm init --template science"


def test_an_empty_folder(folder: Path) -> None:
    assert draft.draft_from_folder(folder) == draft.draft_from_template("minimal", folder=folder)


def test_a_folder_with_requirements(folder: Path) -> None:
    (folder / "requirements.txt").write_text("numpy<3\n")

    text = draft.draft_from_folder(folder)

    assert text == (
        "# The packages are in requirements.txt; mlvm.lock says which versions that means.\n"
        "name: my-project\n"
        "debian: bookworm\n"
        'python: "3.11"\n'
        "requirements: requirements.txt\n"
        "machine:\n"
        "  memory: 2 GiB\n"
    )
    assert loads(text, path=folder / SPEC_NAME).packages == ("numpy<3",)


@pytest.mark.parametrize(
    ("requires", "pair"),
    [
        (">=3.9", ("bookworm", "3.11")),
        (">=3.12", ("trixie", "3.13")),
        ("<3.13", ("bookworm", "3.11")),
        ("<3.11", ("bookworm", "3.10")),
    ],
)
def test_a_folder_with_a_pyproject(folder: Path, requires: str, pair: tuple[str, str]) -> None:
    (folder / "pyproject.toml").write_text(
        f'[project]\nrequires-python = "{requires}"\ndependencies = ["six"]\n'
    )

    spec = loads(draft.draft_from_folder(folder), path=folder / SPEC_NAME)

    assert spec.packages == ("six",)
    assert (spec.debian, spec.python) == pair


def test_a_pyproject_that_only_configures_tools(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")

    assert "requirements:" not in draft.draft_from_folder(folder)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("requirements.txt", "-e .\n", "requirements.txt:1:1: requirements: `-e .` is an editable install"),
        ("pyproject.toml", "[project\n", "pyproject.toml:1:9: requirements: this is not TOML"),
        ("pyproject.toml", '[project]\nrequires-python = ">=4"\n', "leaves out every Python there is"),
    ],
)
def test_a_file_that_no_lock_can_hold(folder: Path, name: str, text: str, complaint: str) -> None:
    (folder / name).write_text(text)

    with pytest.raises(SpecError) as raised:
        draft.draft_from_folder(folder)

    assert raised.value.message == "no spec can be made from this folder yet"
    assert complaint in raised.value.details
    assert raised.value.hint == "mend that, or start with `mlvm init --template minimal`"


def test_everything_installed(folder: Path, site: Path) -> None:
    """Without code to look at: what nothing else requires, and no tools of the host."""
    install(site, "Pandas", "2.2.0", requires='numpy, pytest ; extra == "test"')
    install(site, "numpy", "2.0.0")
    install(site, "pytest", "8.0")
    install(site, "pip", "24")
    install(site, "ipykernel", "7")

    text, unpinned = draft.draft_from_interpreter(folder)

    assert loads(text, path=folder / SPEC_NAME).packages == ("pandas==2.2.0", "pytest==8.0")
    assert [line for line in unpinned if not line.startswith("python ")] == []


def test_what_the_code_imports(folder: Path, site: Path) -> None:
    install(site, "scikit-learn", "1.5.0", modules="sklearn", requires="numpy")
    install(site, "numpy", "2.0.0")
    install(site, "unused", "1")
    install(site, "six", "1.16")
    install(site, "torch", "2.1.0+cu121")
    install(site, "mine", "1", url='{"url": "file:///x", "dir_info": {"editable": true}}')
    install(site, "theirs", "1", url='{"url": "https://x", "vcs_info": {}}')
    install(site, "odd", "what?")
    install(site, "google-a", "1", modules="google")
    install(site, "google-b", "2", modules="google")
    (folder / "own.py").write_text("import os, sklearn.svm\nfrom . import x\nfrom torch import nn\n")
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text(
        "import own, package\nif 0:\n    import mine, theirs, odd\n"
    )
    (folder / "book.ipynb").write_text(
        json.dumps(
            {
                "cells": [
                    {
                        "cell_type": "code",
                        "source": ["%load_ext mlvm\n", "import six\n", "!ls\n", "import absent"],
                    },
                    {"cell_type": "code", "source": "%%bash\nimport unused"},
                    {"cell_type": "markdown", "source": "import unused"},
                    {"cell_type": "code", "source": "from google import cloud"},
                ]
            }
        )
    )

    text, unpinned = draft.draft_from_interpreter(folder)

    assert loads(text, path=folder / SPEC_NAME).packages == (
        "google-a==1",
        "google-b==2",
        "scikit-learn==1.5.0",
        "six==1.16",
        "torch==2.1.0",
    )
    assert [line for line in unpinned if not line.startswith("python ")] == [
        "absent: imported by book.ipynb, and not installed here",
        "google: brought by several packages, all are pinned: google-a, google-b",
        "mine: installed from a folder, not from an index",
        "odd: `what?` is not a version",
        "theirs: installed from version control, not from an index",
        "torch: pinned as 2.1.0; PyPI has no 2.1.0+cu121",
    ]


@pytest.mark.parametrize(
    ("version", "pair", "notes"),
    [
        ((3, 11), ("bookworm", "3.11"), ()),
        ((3, 13), ("trixie", "3.13"), ()),
        ((3, 12), ("bookworm", "3.12"), ()),
        ((3, 15), ("bookworm", "3.11"), ("python 3.15: no box can have it; 3.11 is used",)),
    ],
)
def test_the_running_python(
    folder: Path,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int],
    pair: tuple[str, str],
    notes: tuple[str, ...],
) -> None:
    class Version(tuple):  # type: ignore[type-arg]
        major, minor = version

    monkeypatch.setattr(draft.sys, "version_info", Version((*version, 0)))

    text, unpinned = draft.draft_from_interpreter(folder)

    spec = loads(text, path=folder / SPEC_NAME)
    assert (spec.debian, spec.python) == pair
    assert unpinned == notes


def test_the_real_python_here(folder: Path) -> None:
    """Whatever this Python has installed makes a spec that can be read."""
    text, _ = draft.draft_from_interpreter(folder)

    assert "pytest" in " ".join(loads(text, path=folder / SPEC_NAME).packages)


def test_broken_code_is_passed_over(folder: Path) -> None:
    (folder / "bad.py").write_text("import (\n")
    (folder / "bytes.py").write_bytes(b"\xff\xfe")
    (folder / "null.py").write_text("import a\0")
    (folder / "deep.py").write_text("(" * 5000)
    (folder / "bad.ipynb").write_text("[1]")
    (folder / "escape.py").write_text('import good\nx = "\\d"\n')
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.py").write_text("import hidden")
    (folder / "v").mkdir()
    (folder / "v" / "pyvenv.cfg").write_text("")
    (folder / "v" / "x.py").write_text("import foreign")
    (folder / "loop").symlink_to(folder)

    assert imported_modules(folder) == {"good": folder / "escape.py"}


def test_the_schema_is_named_where_it_lies_beside(folder: Path) -> None:
    inside = shipped("boxes") / "new"

    assert draft.draft_from_template("minimal", folder=inside).startswith(
        "# yaml-language-server: $schema=../../templates/mlvm.schema.json\n# Python and"
    )
    assert "yaml-language-server" not in draft.draft_from_template("minimal", folder=folder)


@pytest.mark.parametrize(
    ("wanted", "first"),
    [
        (">=3.8", "3.11"),
        (">=3.11.5,<3.13", "3.12"),  # Debian 12 keeps 3.11.2
        ("==3.9.*", "3.9"),
        (">=3.14", "3.14"),
    ],
)
def test_the_best_python_of_a_range(wanted: str, first: str) -> None:
    assert pythons_for(SpecifierSet(wanted))[0] == first


def test_a_range_without_a_python_has_none() -> None:
    assert pythons_for(SpecifierSet("<3.8")) == []
