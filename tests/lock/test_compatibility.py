"""The table of compatibility: what the shipped one says, and how another comes to count."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from mlvm.errors import LockError
from mlvm.lock import compatibility
from mlvm.lock.compatibility import Build, Table
from mlvm.paths import Home

TABLE = compatibility.load(compatibility.SHIPPED)


def build(framework: str, version: str, extra: str = "") -> Build:
    found = [one for one in TABLE.builds[framework] if str(one.version) == version and one.extra == extra]
    assert len(found) == 1
    return found[0]


def document(**changes: Any) -> dict[str, Any]:
    whole = {
        "schema": 1,
        "date": "2099-01-01",
        "drivers": {"source": "https://drivers.example", "oldest": {"12": "525"}},
        "cudnn": {"nvidia-cudnn-cu12": ["9.1.0.70"]},
        "toolkits": {"12.1.1": {"nvidia-cuda-runtime-cu12": "12.1.105.*"}},
        "frameworks": {"torch": [{"version": "99.0", "pythons": ["3.11"], "cuda": "12.1"}]},
    }
    return {**whole, **changes}


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_a_torch_needs() -> None:
    torch = build("torch", "2.1.2")

    assert torch.pythons == ("3.8", "3.9", "3.10", "3.11")
    assert (torch.cuda, torch.cudnn, torch.lowest_arch) == ("12.1", "==8.9.2.26", "5.0")
    assert str(torch.wants["nvidia-cublas-cu12"]) == "==12.1.3.1"


def test_a_torch_that_carries_its_cuda() -> None:
    assert build("torch", "1.12.1").bundled
    assert build("torch", "1.12.1").cuda == "10.2"


@pytest.mark.parametrize(
    ("framework", "version", "extra", "cuda", "fits"),
    [
        ("torch", "2.1.2", "", "12.1", True),
        ("torch", "2.1.2", "", "12.1.1", True),
        ("torch", "2.1.2", "", "12.1.0", False),
        ("torch", "2.1.2", "", "12", True),
        ("torch", "2.1.2", "", "12.4", False),
        ("torch", "2.7.1", "", "12.6", True),
        ("torch", "2.0.1", "", "11.7", True),
        ("torch", "1.12.1", "", "10.2", True),
        ("torch", "1.12.1", "", "11.8", False),
        ("jax", "0.10.2", "cuda12", "12.9", True),
        ("jax", "0.10.2", "cuda12", "12.4", False),
        ("jax", "0.10.2", "cuda12", "13.0", False),
        ("jax", "0.10.2", "cuda13", "13.0", True),
        ("jax", "0.10.2", "cuda13", "12.9", False),
        ("tensorflow", "2.15.1", "and-cuda", "12.2", True),
        ("tensorflow", "2.21.0", "and-cuda", "12.5", True),
        ("tensorflow", "2.21.0", "and-cuda", "12.9", True),
        ("tensorflow", "2.21.0", "and-cuda", "12.4", False),
        ("jax", "0.10.2", "cuda13", "77.0", None),
    ],
)
def test_which_cuda_a_build_goes_with(
    framework: str, version: str, extra: str, cuda: str, fits: bool | None
) -> None:
    assert TABLE.goes_with(build(framework, version, extra), cuda) is fits


@pytest.mark.parametrize(
    ("capability", "runs"), [("5.0", True), ("8.9", True), ("3.7", False), ("12.0", False), ("9.0", True)]
)
def test_which_gpus_a_build_runs_on(capability: str, runs: bool) -> None:
    assert build("torch", "2.1.2").runs_on(capability) is runs


def test_code_for_translation_runs_on_newer_gpus() -> None:
    assert build("tensorflow", "2.21.0", "and-cuda").runs_on("12.0") is True


def test_unknown_gpus() -> None:
    assert Build(framework="x", version=Version("1"), pythons=(), wants={}).runs_on("8.0") is None


@pytest.mark.parametrize(
    ("cuda", "driver"),
    [("13.2", "580"), ("12.1", "525"), ("11.8", "450"), ("10.2", "440.33"), ("9.0", None), ("14.0", None)],
)
def test_the_oldest_driver(cuda: str, driver: str | None) -> None:
    assert TABLE.oldest_driver(cuda) == driver


def test_every_row_says_where_it_is_from() -> None:
    rows = json.loads(compatibility.SHIPPED.read_text())["frameworks"]

    assert {source for row in rows["torch"] for source in row["from"]} == {
        "tags",
        "requires",
        "build",
        "code",
    }
    assert all("tags" in row["from"] and row["pythons"] for name in rows for row in rows[name])


def test_every_row_of_torch_knows_cuda_and_gpus() -> None:
    assert all(one.cuda and one.arch for one in TABLE.builds["torch"])


def test_the_shipped_table_counts_where_there_is_no_other(home: Home) -> None:
    assert compatibility.find(home).path == compatibility.SHIPPED


def test_a_newer_table_of_the_user_wins(home: Home) -> None:
    own = written(home.data / compatibility.NAME, document())

    assert compatibility.find(home).path == own


def test_an_older_table_of_the_user_does_not(home: Home) -> None:
    written(home.data / compatibility.NAME, document(date="2020-01-01"))

    assert compatibility.find(home).path == compatibility.SHIPPED


def test_a_table_is_taken_with_its_digest(home: Home, tmp_path: Path) -> None:
    source = written(tmp_path / "new.json", document())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()

    taken = compatibility.use(source, home, sha256=f"sha256:{digest}")

    assert taken.date == "2099-01-01"
    assert compatibility.find(home).date == "2099-01-01"


def test_another_digest_is_refused_and_nothing_is_taken(home: Home, tmp_path: Path) -> None:
    source = written(tmp_path / "new.json", document())

    with pytest.raises(LockError) as error:
        compatibility.use(source, home, sha256="0" * 64)

    assert error.value.message == f"`{source}` is not the table it should be"
    assert not (home.data / compatibility.NAME).exists()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("nonsense", "Expecting value: line 1 column 1 (char 0)"),
        (document(schema=2), "its schema is 2; this mlvm reads 1"),
        (document(date="yesterday"), "it has no date"),
        ({"schema": 1}, "`date` is missing"),
        (document(frameworks={"torch": [{"version": "1.0"}]}), "`pythons` is missing"),
        (document(frameworks={"torch": [{"version": "x!", "pythons": []}]}), "Invalid version: 'x!'"),
    ],
)
def test_what_is_no_table(tmp_path: Path, content: object, complaint: str) -> None:
    path = written(tmp_path / "table.json", content)

    with pytest.raises(LockError) as error:
        compatibility.load(path)

    assert error.value.message == f"`{path}` is not a table of compatibility: {complaint}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(key=st.sampled_from(sorted(document())), value=JSON)
def test_whatever_stands_in_it_a_table_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = written(tmp_path_factory.mktemp("any") / "table.json", document(**{key: value}))

    with suppress(LockError):
        assert isinstance(compatibility.load(path), Table)
