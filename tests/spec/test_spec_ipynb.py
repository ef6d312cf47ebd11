"""Notebooks as documents: read with reasons, and written back as they were laid out."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from mlvm.errors import MlvmError
from mlvm.paths import shipped
from mlvm.spec import ipynb

HERE = Path("x.ipynb")
EMPTY = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "`x.ipynb` is no notebook: it is not JSON"),
        ("[]", "`x.ipynb` is no notebook: it does not say its `nbformat`"),
        ('{"nbformat": 3, "worksheets": []}', "`x.ipynb` is a notebook of format 3; mlvm reads 4"),
        ('{"nbformat": 4}', "`x.ipynb` is a notebook of format 4; mlvm reads 4"),
    ],
)
def test_what_is_no_notebook(text: str, message: str) -> None:
    with pytest.raises(MlvmError) as raised:
        ipynb.parse(text, HERE)

    assert raised.value.message == message


@given(
    st.text(max_size=40)
    | JSON.map(json.dumps)
    | JSON.map(lambda value: json.dumps({**EMPTY, "cells": value}))
)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = ipynb.parse(text, HERE)
    except MlvmError:
        return
    assert isinstance(list(found.codes()), list)


@pytest.mark.parametrize(
    "path", sorted(shipped("boxes").glob("*/*.ipynb")), ids=lambda path: path.parent.name
)
def test_shipped_notebooks_are_written_back_as_they_are(path: Path) -> None:
    assert ipynb.dumps(ipynb.read(path)) == path.read_text()


@pytest.mark.parametrize("indent", [None, 1, 2, 4])
@pytest.mark.parametrize("end", ["", "\n"])
def test_the_layout_stays(indent: int | None, end: str) -> None:
    text = json.dumps({**EMPTY, "metadata": {"ü": 1}}, indent=indent, ensure_ascii=False) + end

    assert ipynb.dumps(ipynb.parse(text, HERE)) == text


@given(JSON, JSON)
def test_metadata_come_and_go_without_a_trace(others: object, value: object) -> None:
    text = json.dumps({**EMPTY, "metadata": {"a": others, "z": 1}}, indent=1, ensure_ascii=False)
    notebook = ipynb.parse(text, HERE)

    there = ipynb.with_metadata(notebook, {"v": value})

    assert there.metadata["mlvm"] == {"v": value}
    assert ipynb.dumps(ipynb.with_metadata(there, None)) == text


def test_what_nbformat_writes_stays_as_it_writes_it(tmp_path: Path) -> None:
    """The lock's block is where nbformat would have put it, so that a save in Jupyter moves nothing."""
    path = tmp_path / "x.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1")], metadata={"a": 1, "z": 2}), path)

    ipynb.save(ipynb.with_metadata(ipynb.read(path), {"lock": "x", "name": "y"}))

    ours = path.read_text()
    nbformat.write(nbformat.read(path, as_version=4), path)
    assert path.read_text() == ours


def test_language_and_version() -> None:
    def of(**metadata: object) -> tuple[str, str]:
        found = ipynb.parse(json.dumps({**EMPTY, "metadata": metadata}), HERE)
        return found.language, found.python

    assert of(language_info={"name": "python", "version": "3.8.10"}) == ("python", "3.8.10")
    assert of(kernelspec={"language": "R"}) == ("r", "")
    assert of(language_info={"version": "${evil}"}) == ("python", "")
    assert of() == ("python", "")
