"""Wheels land where an installer would put them; a hostile one is refused by name."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import wheel_sample as sample
from hypothesis import given
from hypothesis import strategies as st

from mlvm.errors import BuildError
from mlvm.image.environment import VENV
from mlvm.image.python_layer import install
from mlvm.image.tree import Tree
from mlvm.image.wheel import Wheel

SITE = f"{VENV}/lib/python3.11/site-packages"


def installed(folder: Path, files: dict[str, bytes | str], **options: object) -> Tree:
    tree = Tree()
    wheel = Wheel(sample.written(folder, files, **options), name="sample 1.0")  # type: ignore[arg-type]
    install(tree, wheel, "3.11")
    with ExitStack() as later:
        later.callback(wheel.close)
        for path in list(tree.nodes):  # read while the wheel is open
            tree.file(path, tree.read(path), mode=tree[path].mode)
    return tree


def refused(folder: Path, files: dict[str, bytes | str], **options: object) -> str:
    with pytest.raises(BuildError) as caught:
        installed(folder, files, **options)
    return caught.value.message


def test_modules_go_to_site_packages(tmp_path: Path) -> None:
    tree = installed(tmp_path, {"sample/__init__.py": "x = 1\n"})

    assert tree.read(f"{SITE}/sample/__init__.py") == b"x = 1\n"


@pytest.mark.parametrize(
    ("member", "place"),
    [
        ("purelib/a.py", f"{SITE}/a.py"),
        ("platlib/a.so", f"{SITE}/a.so"),
        ("data/share/x", f"{VENV}/share/x"),
        ("headers/x.h", f"{VENV}/include/site/python3.11/sample/x.h"),
        ("scripts/tool", f"{VENV}/bin/tool"),
    ],
)
def test_the_data_folder(tmp_path: Path, member: str, place: str) -> None:
    assert place in installed(tmp_path, {f"sample-1.0.data/{member}": b"x"})


def test_a_python_script_gets_the_environments_interpreter(tmp_path: Path) -> None:
    tree = installed(tmp_path, {"sample-1.0.data/scripts/tool": "#!python\nprint(1)\n"})

    assert tree.read(f"{VENV}/bin/tool") == b"#!/opt/mlvm/venv/bin/python\nprint(1)\n"
    assert tree[f"{VENV}/bin/tool"].mode == 0o755


def test_executables_stay_executable(tmp_path: Path) -> None:
    tree = installed(tmp_path, {"sample/run": b"x"}, modes={"sample/run": 0o100755})

    assert tree[f"{SITE}/sample/run"].mode == 0o755


def test_commands(tmp_path: Path) -> None:
    text = "[console_scripts]\nsample = sample.cli:app.main [extra]\n"
    tree = installed(tmp_path, {f"{sample.INFO}/entry_points.txt": text})

    assert tree.read(f"{VENV}/bin/sample").decode().splitlines() == [
        "#!/opt/mlvm/venv/bin/python",
        "import sys",
        "from sample.cli import app",
        'if __name__ == "__main__":',
        "    sys.exit(app.main())",
    ]


def test_record_names_every_file_where_it_is(tmp_path: Path) -> None:
    text = "[console_scripts]\nsample = sample:main\n"
    tree = installed(
        tmp_path,
        {
            "sample.py": "x",
            "sample-1.0.data/data/share/x": "y",
            f"{sample.INFO}/entry_points.txt": text,
        },
    )

    rows = [line.split(",") for line in tree.read(f"{SITE}/{sample.RECORD}").decode().splitlines()]

    assert [row[0] for row in rows] == [
        "../../../bin/sample",
        "../../../share/x",
        f"{sample.INFO}/INSTALLER",
        sample.RECORD,
        f"{sample.INFO}/entry_points.txt",
        "sample.py",
    ]
    assert rows[-1] == ["sample.py", "sha256=x", "1"]
    assert rows[3] == [sample.RECORD, "", ""]


@pytest.mark.parametrize(
    "name", ["../evil.py", "/etc/passwd", "a/../../evil", "a//b", "./a", "a\\..\\b", "a\nb", "a/./b"]
)
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path, {name: b"x"}) == (
        f"wheel `sample 1.0`: `{name!a}` would be written outside of the environment"
    )


def test_a_name_that_leads_out_of_the_data_folder(tmp_path: Path) -> None:
    assert refused(tmp_path, {"sample-1.0.data/other/x": b"x"}) == (
        "wheel `sample 1.0`: `sample-1.0.data/other/x` belongs nowhere"
    )


def test_an_entry_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        sample.written(tmp_path, {"a.py": b"x"}, twice="a.py")

    with pytest.raises(BuildError) as caught:
        Wheel(tmp_path / "sample-1.0-py3-none-any.whl", name="sample 1.0")

    assert caught.value.message == "wheel `sample 1.0`: `a.py` is in it twice"


def test_a_symlink(tmp_path: Path) -> None:
    assert refused(tmp_path, {"a": b"/etc"}, modes={"a": 0o120777}) == (
        "wheel `sample 1.0`: `a` is not a plain file"
    )


def test_no_record(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"a.py": b"x", f"{sample.INFO}/WHEEL": b""}

    assert refused(tmp_path, files, record=False) == f"wheel `sample 1.0`: it has no `{sample.RECORD}`"


def test_no_metadata(tmp_path: Path) -> None:
    assert refused(tmp_path, {"a.py": b"x"}, record=False) == (
        "wheel `sample 1.0`: it has no `.dist-info` folder"
    )


def test_two_packages_in_one(tmp_path: Path) -> None:
    assert refused(tmp_path, {"other-2.dist-info/WHEEL": b""}) == (
        "wheel `sample 1.0`: it has 2 `.dist-info` folders"
    )


@pytest.mark.parametrize(
    ("command", "target"),
    [("../../etc/x", "a:b"), ("x", "a:b; import os"), ("x", "a"), ("x", "a:b()"), ("..", "a:b")],
)
def test_commands_that_are_none(tmp_path: Path, command: str, target: str) -> None:
    text = f"[console_scripts]\n{command} = {target}\n"

    assert refused(tmp_path, {f"{sample.INFO}/entry_points.txt": text}) == (
        f"wheel `sample 1.0`: command `{command} = {target}` cannot be made"
    )


def test_bytes_without_their_checksum(tmp_path: Path) -> None:
    path = sample.written(tmp_path, {"a.py": b"y" * 5000})
    content = bytearray(path.read_bytes())
    start = content.index(b"a.py") + 4
    content[start + 5] ^= 0xFF
    path.write_bytes(content)
    wheel = Wheel(path, name="sample 1.0")

    with pytest.raises(BuildError, match=r"`a\.py` cannot be read"):
        list(wheel.members["a.py"].pieces())
    wheel.close()


@given(st.binary(max_size=300))
def test_random_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.whl"
        path.write_bytes(content)

        with pytest.raises(BuildError):
            Wheel(path, name="sample 1.0")
