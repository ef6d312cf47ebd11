"""Requirements files: what is read, what is refused, and where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlvm.errors import SpecError
from mlvm.spec.document import Spec
from mlvm.spec.reader import load


def spec_with(folder: Path, text: str, *, name: str = "requirements.txt", more: str = "") -> Spec:
    """Write a requirements file and a spec that names it; read the spec."""
    (folder / name).write_text(text)
    (folder / "mlvm.yaml").write_text(f"name: a\nrequirements: {name}\n{more}")
    return load(folder / "mlvm.yaml")


def complaints(folder: Path, text: str, *, name: str = "requirements.txt", more: str = "") -> list[str]:
    """Return the complaints of `spec_with`, without the folder."""
    with pytest.raises(SpecError) as raised:
        spec_with(folder, text, name=name, more=more)
    return [line.replace(f"{folder}/", "") for line in raised.value.details.splitlines()]


def test_a_requirements_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "more.txt").write_text("-r deeper.txt\npandas\n")
    (tmp_path / "sub" / "deeper.txt").write_text("six")
    text = (
        "# a comment\n"
        "\n"
        "NumPy >=2 , <3   # why\n"
        "  scipy[test] \\\n"
        "    >=1.10\n"
        'pywin32; sys_platform == "win32"\n'
        "# a comment that does not go on \\\n"
        "-r sub/more.txt\n"
    )

    spec = spec_with(tmp_path, text, more="packages: [matplotlib]\n")

    assert spec.packages == (
        "numpy<3,>=2",
        "scipy[test]>=1.10",
        'pywin32; sys_platform == "win32"',
        "six",
        "pandas",
        "matplotlib",
    )
    assert spec.notes == ()


def test_hashes_are_left_out_with_a_note(tmp_path: Path) -> None:
    text = "--require-hashes\nnumpy==2.0.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nsix==1 --hash=sha256:cc\n"

    spec = spec_with(tmp_path, text)

    assert spec.packages == ("numpy==2.0.0", "six==1")
    assert spec.notes == (
        f"{tmp_path}/requirements.txt: its hashes are not used; the lock pins the digest of every file itself",
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("-e .", "`-e .` is an editable install, which no lock can pin"),
        ("--editable=.", "`--editable=.` is an editable install, which no lock can pin"),
        ("https://a/b.whl", "`https://a/b.whl`: not yet: URLs, local files and folders"),
        ("git+ssh://a/b", "`git+ssh://a/b`: not yet: URLs, local files and folders"),
        ("./b.whl", "`./b.whl`: not yet: URLs, local files and folders"),
        ("b-1-py3-none-any.whl", "`b-1-py3-none-any.whl`: not yet: URLs, local files and folders"),
        ("b @ file:///b", "`b @ file:///b` names a URL; not yet: packages that are not on an index"),
        ("--index-url https://a", "`--index-url`: not yet: other indexes than PyPI"),
        ("-i https://a", "`-i`: not yet: other indexes than PyPI"),
        ("--extra-index-url=https://a", "`--extra-index-url`: not yet: other indexes than PyPI"),
        ("-c c.txt", "`-c c.txt`: not yet: constraint files; write the bounds as requirements"),
        ("--pre", "`--pre` is an option that a lock cannot honour"),
        ("numpy --no-binary :all:", "`--no-binary :all:` after a requirement is not supported"),
        ("-r requirements.txt", "`requirements.txt` includes itself"),
        ("-r absent.txt", "there is no file `absent.txt`"),
        ("numpy=1.2", "`numpy=1.2` is not a requirement: a single `=` is conda's; write `numpy==1.2`"),
    ],
)
def test_a_refused_line(tmp_path: Path, line: str, complaint: str) -> None:
    found = complaints(tmp_path, f"# first\n  {line}\nsix\n")

    assert len(found) == 1
    place, _, said = found[0].partition(": requirements: ")
    assert place.startswith("requirements.txt:2:")
    assert said == complaint


def test_all_lines_of_all_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("six=1\n")

    found = complaints(tmp_path, "a=1\n-r b.txt\n", more="network: no\npackages: [six, c=1]\n")

    assert [line.split(": ")[0] for line in found] == [
        "mlvm.yaml:3:10",
        "mlvm.yaml:4:18",
        "b.txt:1:4",
        "requirements.txt:1:2",
    ]


def test_a_package_in_the_file_and_in_the_spec(tmp_path: Path) -> None:
    assert complaints(tmp_path, "six\n\nnumpy\n", more="packages: [numpy<2]") == [
        f"mlvm.yaml:3:12: packages[0]: `numpy` is there twice; first in `{tmp_path}/requirements.txt:3:1`".replace(
            f"{tmp_path}/", ""
        )
    ]


def test_an_include_bomb_ends(tmp_path: Path) -> None:
    """Thirty files that each include the next one twice would be a thousand million reads."""
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(f"-r {number + 1}.txt\n" * 2)
    (tmp_path / "30.txt").write_text("six\n")

    found = complaints(tmp_path, "-r 0.txt\n")

    assert sum("more than 50 files are included" in line for line in found) == 1


def test_utf_16_from_an_old_powershell(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes("six==1\r\n".encode("utf-16"))
    (tmp_path / "mlvm.yaml").write_text("name: a\nrequirements: requirements.txt\n")

    with pytest.raises(SpecError) as raised:
        load(tmp_path / "mlvm.yaml")

    assert raised.value.details == (
        f"{tmp_path}/requirements.txt:1:1: requirements: "
        "the file is UTF-16 (an old PowerShell writes that); save it as UTF-8"
    )


PYPROJECT = """\
[project]
name = "x"
requires-python = ">=3.11"
dependencies = [
  "numpy>=2",
  "six",
]
[project.optional-dependencies]
test = ["pytest"]
"""


def test_a_pyproject(tmp_path: Path) -> None:
    assert spec_with(tmp_path, PYPROJECT, name="pyproject.toml").packages == ("numpy>=2", "six")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            '"six"',
            '"six=1"',
            "pyproject.toml:6:7: requirements: `six=1` is not a requirement: a single `=` is conda's; write `six==1`",
        ),
        ('"six"', "1", "pyproject.toml:4:1: requirements: `project.dependencies[1]` must be text"),
        (
            ">=3.11",
            ">=3.12",
            ("pyproject.toml:3:1: requirements: `requires-python` (>=3.12) leaves out python 3.11.2; use "
            '"3.12", "3.13", "3.14", "3.14t"'),
        ),
        (">=3.11", "new", "pyproject.toml:3:1: requirements: `project.requires-python` is not a version specifier"),
        (
            '[project]\nname = "x"',
            '[project]\ndynamic = ["dependencies"]',
            "pyproject.toml:2:1: requirements: `dependencies` are dynamic: only a build backend could tell them",
        ),
        (
            "[project]",
            "[tool.poetry]",
            ("pyproject.toml:1:1: requirements: there is no `[project]` table with `dependencies` "
            "(Poetry's own table is not read)"),
        ),
        ("[project]", "[project", ("pyproject.toml:1:9: requirements: this is not TOML: "
         "Expected ']' at the end of a table declaration")),
    ],
)  # fmt: skip
def test_a_bad_pyproject(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    text = (
        PYPROJECT.replace("[project.optional-dependencies]\ntest", "[other]\ntest")
        if "poetry" in new
        else PYPROJECT
    )

    assert complaints(tmp_path, text.replace(old, new, 1), name="pyproject.toml") == [complaint]


def test_requires_python_holds_for_the_python_that_is_chosen(tmp_path: Path) -> None:
    text = PYPROJECT.replace(">=3.11", ">=3.12")

    spec = spec_with(tmp_path, text, name="pyproject.toml", more="debian: trixie\n")

    assert spec.python == "3.13"
