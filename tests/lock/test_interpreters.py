"""Pythons beside Debian's: the table, the lock's line, where the bytes come from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lock_sample as sample
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from mlvm.download import Blobs, fetch
from mlvm.errors import DigestError, LockError, ResolveError
from mlvm.lock.diff import describe
from mlvm.lock.document import Interpreter, Lock
from mlvm.lock.fresh import stale_reasons
from mlvm.lock.interpreters import BASE, NAME, SHIPPED, find, load, wanted_interpreter
from mlvm.lock.python import best_wheel, resolve_python
from mlvm.lock.resolve import _check_known, _interpreter
from mlvm.lock.text import dumps, loads
from mlvm.paths import Home
from mlvm.spec.document import DEBIAN_PYTHON, PYTHONS

OWN = Interpreter(version="3.12.15", url=f"{BASE}/20261021/p.tar.gz", sha256="a" * 64)
DEBS = (sample.deb("libc6"), sample.deb("python3.11-minimal"))


def own(**changes: Any) -> Lock:
    inputs = {"debian": "bookworm", "python": "3.12", "packages": ["numpy>=2"]}
    return sample.lock(**{"inputs": inputs, "system": DEBS, "interpreter": OWN, **changes})


def test_the_shipped_table_has_every_python_that_a_spec_may_ask_for() -> None:
    table = load(SHIPPED)

    assert set(table.pythons) == set(PYTHONS)
    assert len({one.sha256 for one in table.pythons.values()}) == len(PYTHONS)


@pytest.mark.parametrize("python", [python for python in PYTHONS if python.endswith("t")])
def test_a_free_threaded_build_is_named_as_such(python: str) -> None:
    table = load(SHIPPED)

    assert "freethreaded" in table.of(python).url
    assert "freethreaded" not in table.of(python.rstrip("t")).url


@pytest.mark.parametrize("python", sorted(DEBIAN_PYTHON.values()))
def test_the_newest_is_not_older_than_debians(python: str) -> None:
    assert Version(load(SHIPPED).of(python).version) > Version(python)


def test_what_is_not_in_the_table_names_what_is(tmp_path: Path) -> None:
    row = {"version": "3.12.1", "path": "20990101/p.tar.gz", "sha256": "b" * 64}
    table = load(written(tmp_path / "t.json", pythons={"3.12": row}))

    with pytest.raises(ResolveError) as raised:
        table.of("3.14t")

    assert raised.value.message == "no build of Python 3.14t is known here (table of 2099-01-01)"
    assert raised.value.hint == "use one of 3.12, or a Debian release's own"


def written(path: Path, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"date": "2099-01-01", "source": "a test", "pythons": {}, **changes}))
    return path


@pytest.mark.parametrize(("date", "wins"), [("2099-01-01", True), ("2020-01-01", False)])
def test_a_newer_table_of_ones_own_wins(home: Home, date: str, wins: bool) -> None:
    path = written(home.data / NAME, date=date)

    assert find(home).path == (path if wins else SHIPPED)


GOOD = {"version": "3.12.1", "path": "20990101/p.tar.gz", "sha256": "b" * 64}


@pytest.mark.parametrize(
    ("python", "changes"),
    [
        ("3.8", {}),
        ("3.12", {"version": "3.11.4"}),
        ("3.12", {"path": "../p.tar.gz"}),
        ("3.12", {"path": "https://elsewhere.example/p.tar.gz"}),
        ("3.12", {"path": "20990101/p.zip"}),
        ("3.12", {"sha256": "b" * 63}),
        ("3.12", {"sha256": None}),
    ],
)
def test_a_row_that_is_none(tmp_path: Path, python: str, changes: dict[str, str]) -> None:
    with pytest.raises(LockError) as raised:
        load(written(tmp_path / "t.json", pythons={python: {**GOOD, **changes}}))

    assert raised.value.message == f"`{tmp_path / 't.json'}` is not a table of Pythons"


@given(
    content=st.text()
    | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x)).map(json.dumps)
)
def test_any_other_file_is_no_table(content: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("table") / NAME
    path.write_text(content, encoding="utf-8")

    with pytest.raises(LockError):
        load(path)


def test_the_lock_says_which_and_is_read_back() -> None:
    assert loads(dumps(own())) == own()


@pytest.mark.parametrize(
    ("lock", "complaint"),
    [
        (
            own(interpreter=None),
            "interpreter: Python 3.12 is wanted, and Debian's own is 3.11: nothing says where it comes from",
        ),
        (
            own(inputs={"debian": "bookworm", "python": "3.11", "packages": []}),
            "interpreter: Python 3.11 is wanted, and Debian's own is 3.11: another is not needed",
        ),
        (own(interpreter=replace(OWN, version="3.1.2")), "interpreter: 3.1.2 is not Python 3.12"),
    ],
)
def test_a_lock_that_contradicts_itself(lock: Lock, complaint: str) -> None:
    with pytest.raises(LockError) as raised:
        loads(dumps(lock))

    assert raised.value.details == complaint


def test_another_python_makes_the_lock_stale() -> None:
    assert stale_reasons(sample.spec(python="3.13"), own()) == [
        "python: 3.12 -> 3.13",
        *(line for line in stale_reasons(sample.spec(python="3.12"), own())),
    ]


@pytest.mark.parametrize(
    ("after", "line"),
    [
        (replace(OWN, version="3.12.16"), "interpreter: 3.12.15 -> 3.12.16"),
        (replace(OWN, url=OWN.url + ".gz"), "interpreter: 3.12.15, another build of it"),
        (
            replace(OWN, sha256="b" * 64),
            "interpreter: ! 3.12.15 has other bytes under the same name: sha256 aaaaaaaaaaaa... -> bbbbbbbbbbbb...",
        ),
    ],
)
def test_what_moved_is_told(after: Interpreter, line: str) -> None:
    assert describe(own(), own(interpreter=after)) == [line]


def test_a_relock_keeps_it_unless_it_is_asked_for(home: Home) -> None:
    spec = sample.spec(python="3.12")

    assert _interpreter(spec, home=home, kept=own(), moving=()) == OWN
    assert _interpreter(spec, home=home, kept=own(), moving={"python"}) == load(SHIPPED).of("3.12")
    assert _interpreter(spec, home=home, kept=None, moving=()) == load(SHIPPED).of("3.12")
    assert _interpreter(sample.spec(), home=home, kept=own(), moving=()) is None


def test_python_is_a_name_to_move_only_where_it_is_the_boxs_own() -> None:
    _check_known({"python"}, own())

    with pytest.raises(ResolveError, match="nothing called `python` is in the lock"):
        _check_known({"python"}, sample.lock())


def mirrored(folder: Path, content: bytes) -> Interpreter:
    (folder / "20261021").mkdir()
    (folder / "20261021" / "p.tar.gz").write_bytes(content)
    return replace(OWN, sha256=hashlib.sha256(content).hexdigest())


def test_a_mirror_is_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    interpreter = mirrored(tmp_path, b"bytes")
    monkeypatch.setenv("MLVM_PYTHON_MIRROR", f"{tmp_path.as_uri()}/")
    blobs = Blobs(tmp_path / "blobs")

    fetch(wanted_interpreter(interpreter), blobs)

    assert blobs.path(interpreter.sha256).read_bytes() == b"bytes"


def test_a_mirror_with_other_bytes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mirrored(tmp_path, b"other bytes")
    monkeypatch.setenv("MLVM_PYTHON_MIRROR", tmp_path.as_uri())
    (wanted,) = wanted_interpreter(OWN)
    (only,) = [replace(wanted, urls=wanted.urls[:1])]

    with pytest.raises(DigestError, match=r"`Python 3\.12\.15` is not what the lock says"):
        fetch([only], Blobs(tmp_path / "blobs"))


def test_a_mirror_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLVM_PYTHON_MIRROR", "mirror.example")

    with pytest.raises(ResolveError, match="which is not the URL of a mirror"):
        wanted_interpreter(OWN)


def test_without_a_python_of_its_own_nothing_is_fetched() -> None:
    assert wanted_interpreter(None) == []


@pytest.mark.parametrize(
    ("python", "wheel"),
    [
        ("3.13", "a-1-cp313-cp313-manylinux_2_28_x86_64.whl"),
        ("3.13t", "a-1-cp313-cp313t-manylinux_2_28_x86_64.whl"),
        ("3.12", "a-1-cp39-abi3-manylinux_2_28_x86_64.whl"),
    ],
)
def test_each_python_gets_its_own_wheels(python: str, wheel: str) -> None:
    package = sample.pylock({"a": "1"}).packages[0]
    assert package.wheels
    names = (
        "a-1-cp313-cp313-manylinux_2_28_x86_64.whl",
        "a-1-cp313-cp313t-manylinux_2_28_x86_64.whl",
        "a-1-cp39-abi3-manylinux_2_28_x86_64.whl",
    )
    wheels = [replace(package.wheels[0], url=f"https://example.org/{name}", name=name) for name in names]

    assert best_wheel(replace(package, wheels=wheels), python=python, release="bookworm").filename == wheel


def test_a_free_threaded_python_takes_no_stable_abi() -> None:
    package = sample.pylock({"a": "1"}).packages[0]
    assert package.wheels
    name = "a-1-cp39-abi3-manylinux_2_28_x86_64.whl"
    wheels = [replace(package.wheels[0], url=f"https://example.org/{name}", name=name)]

    with pytest.raises(ResolveError) as raised:
        best_wheel(replace(package, wheels=wheels), python="3.13t", release="bookworm")

    assert raised.value.message == "`a` 1 has no wheel for Python 3.13t on Debian bookworm"


@pytest.mark.network
def test_a_free_threaded_python_is_resolved_for_itself(tmp_path: Path) -> None:
    """No package of another platform, one wheel of each, and none that would bring the GIL back."""
    full = load(SHIPPED).of("3.14t").version
    found = resolve_python(("numpy",), python="3.14t", release="bookworm", full=full, cache_folder=tmp_path)

    names = {str(package.name) for package in found.packages}
    wheels = [wheel.filename for package in found.packages for wheel in package.wheels or ()]
    assert {"ipykernel", "numpy"} <= names
    assert not {"appnope", "cffi", "colorama"} & names
    assert all(package.marker is None for package in found.packages)
    assert all(name.endswith("-none-any.whl") or "-cp314t-" in name for name in wheels)
