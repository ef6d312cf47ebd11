"""Packages of the project whose code stays where it is: what a spec makes of their pyproject.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlvm.errors import SpecError
from mlvm.spec.document import Editable, SharedFolder, Spec
from mlvm.spec.reader import load

PYPROJECT = """\
[project]
name = "Own.Package"
version = "1.2"
requires-python = ">=3.10"
dependencies = ["numpy>=2", "other-own"]
[project.scripts]
own = "own_package.cli:main"
[project.entry-points."own.plugins"]
first = "own_package.plugins:First [extra]"
"""
OTHER = '[project]\nname = "other-own"\ndynamic = ["version"]\n'


def spec(folder: Path, text: str = "name: x\neditable: [.]\n", pyproject: str = PYPROJECT) -> Spec:
    (folder / "pyproject.toml").write_text(pyproject)
    (folder / "mlvm.yaml").write_text(text)
    return load(folder / "mlvm.yaml")


def complaint(folder: Path, text: str = "name: x\neditable: [.]\n", pyproject: str = PYPROJECT) -> str:
    with pytest.raises(SpecError) as error:
        spec(folder, text, pyproject)
    return error.value.details.replace(f"{folder}/", "")


def test_a_package_with_its_commands_and_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()

    found = spec(tmp_path)

    assert found.editable == (
        Editable(
            name="own-package",
            version="1.2",
            folder=".",
            code="src",
            entries={
                "console_scripts": {"own": "own_package.cli:main"},
                "own.plugins": {"first": "own_package.plugins:First [extra]"},
            },
        ),
    )
    assert found.packages == ("numpy>=2", "other-own")
    assert found.share == (
        SharedFolder(folder=".", write=True),
        SharedFolder(folder=".", at="/opt/mlvm/editable/own-package", write=True),
    )


def test_packages_of_the_project_need_no_index_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pyproject.toml").write_text(OTHER)

    found = spec(tmp_path, "name: x\neditable: [., other]\n")

    assert [(one.name, one.version, one.folder) for one in found.editable] == [
        ("other-own", "0+editable", "other"),
        ("own-package", "1.2", "."),
    ]
    assert found.packages == ("numpy>=2",)


def test_what_decides_the_lock_is_not_where_it_is(tmp_path: Path) -> None:
    assert spec(tmp_path).resolution_inputs()["editable"] == [
        {
            "name": "own-package",
            "version": "1.2",
            "code": "",
            "entries": {
                "console_scripts": {"own": "own_package.cli:main"},
                "own.plugins": {"first": "own_package.plugins:First [extra]"},
            },
        }
    ]


def test_a_folder_is_shared_as_the_spec_shares_it(tmp_path: Path) -> None:
    found = spec(tmp_path, "name: x\neditable: [.]\nshare: ro\n")

    assert found.share is not None
    assert found.share[1] == SharedFolder(folder=".", at="/opt/mlvm/editable/own-package", write=False)


@pytest.mark.parametrize("share", ["[]", '["data:/data"]'])
def test_code_that_is_not_shared(tmp_path: Path, share: str) -> None:
    assert complaint(tmp_path, f"name: x\neditable: [.]\nshare: {share}\n") == (
        "mlvm.yaml:1:1: editable: the code of `own-package` is in `.`, which `share` does not share; "
        "share it, or take it out of `editable`"
    )


@pytest.mark.parametrize(
    ("text", "pyproject", "said"),
    [
        (
            "name: x\neditable: [..]\n",
            PYPROJECT,
            "mlvm.yaml:2:12: editable[0]: a shared folder is the spec's own or one below it: without `..`",
        ),
        (
            "name: x\neditable: [lib]\n",
            PYPROJECT,
            "mlvm.yaml:2:11: editable[0]: there is no file `lib/pyproject.toml`",
        ),
        (
            "name: x\neditable: [.]\n",
            "[tool.x]\n",
            "pyproject.toml:1:1: editable[0]: there is no `[project]` table with `dependencies`",
        ),
        (
            "name: x\neditable: [.]\n",
            '[project]\nname = "x"\nversion = "one"\n',
            "pyproject.toml:1:1: editable[0]: `project.version` of `x` is not a version",
        ),
        (
            "name: x\neditable: [.]\n",
            '[project]\nname = "x"\nversion = "1"\n[project.scripts]\n"../up" = "x:y"\n',
            "pyproject.toml:1:1: editable[0]: entry points `console_scripts` cannot be made",
        ),
        (
            "name: x\neditable: [.]\n",
            '[project]\nname = "x"\nversion = "1"\n[project.scripts]\n".." = "x:y"\n',
            "pyproject.toml:1:1: editable[0]: entry points `console_scripts` cannot be made",
        ),
        (
            "name: x\neditable: [.]\n",
            '[project]\nname = "x"\nversion = "1"\ndynamic = ["dependencies"]\n',
            "pyproject.toml:4:1: editable[0]: `dependencies` are dynamic: only a build backend could tell them",
        ),
        (
            "name: x\neditable: [.]\nrequirements: pyproject.toml\n",
            PYPROJECT,
            "mlvm.yaml:3:15: requirements: `editable` reads `pyproject.toml` already; take one of them out",
        ),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, text: str, pyproject: str, said: str) -> None:
    assert complaint(tmp_path, text, pyproject) == said


def test_a_template_has_no_code(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("editable: [.]\n")

    assert complaint(tmp_path, "name: x\ntemplate: base.yaml\n").startswith(
        "base.yaml:1:11: editable: a template has no code of its own"
    )
