"""What crosses between host and guest comes out as it went in, and what comes out runs nothing."""

from __future__ import annotations

import collections
import datetime
import decimal
import json
import pickle
import uuid
import zoneinfo
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlvm.notebook import crate

UTC = datetime.UTC

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.timedeltas()
    | st.dates()
    | st.decimals(allow_nan=False)
    | st.uuids(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=20,
)


def cross(value: object, *, pickled: bool = False, trusted: bool = False, arrow: bool = False) -> Any:
    buffers = crate.packed({"x": value}, pickled=pickled, arrow=arrow)
    return crate.opened([bytes(one) for one in buffers], trusted=trusted)["x"]


@given(plain)
def test_plain_values_cross(value: object) -> None:
    crossed = cross(value)

    assert crossed == value
    assert type(crossed) is type(value)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_a_guest_says_is_opened_or_refused(node: object) -> None:
    head = json.dumps({"values": {"x": node}}).encode()

    with suppress(crate.CrateError):
        crate.opened([head], trusted=False)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(10)[::3],
        np.array(3.5),
        np.empty((0, 4), dtype="f4"),
        np.array(["a", "bc"]),
        np.array(["2026-01-01", "NaT"], dtype="M8[ns]"),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", ">f8", (1,))]),
        np.array([1 + 2j], dtype="c8"),
        np.array([None, "x", (1, 2)], dtype=object),
    ],
    ids=str,
)
def test_arrays_cross(array: Any) -> None:
    crossed = cross(array)

    np.testing.assert_array_equal(crossed, array)
    assert crossed.dtype == array.dtype
    assert crossed.flags.writeable


def test_a_numpy_scalar_crosses() -> None:
    crossed = cross(np.float32(1.5))

    assert (type(crossed), crossed) == (np.float32, 1.5)


FRAME = pd.DataFrame(
    {
        "i": [1, 2, 3],
        "f": [0.5, np.nan, 1.5],
        "s": ["a", None, "c"],
        "b": [True, False, True],
        "t": pd.to_datetime(["2026-01-01", "2026-06-01", None]),
        "z": pd.to_datetime(["2026-01-01", "2026-06-01", None]).tz_localize("Europe/Berlin"),
        "c": pd.Categorical(["x", "y", "x"], ordered=True),
        "n": pd.array([1, None, 3], dtype="Int64"),
    },
    index=pd.Index(["p", "q", "r"], name="row"),
)


@pytest.mark.parametrize("arrow", [False, True])
def test_frames_cross(arrow: bool) -> None:
    pd.testing.assert_frame_equal(cross(FRAME, arrow=arrow), FRAME)


@pytest.mark.parametrize(
    "value",
    [
        FRAME["z"],
        FRAME["c"],
        pd.Series([1, 2], name=("a", 1)),
        pd.Series([], dtype="f8"),
        pd.Series(range(4), index=pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["k", None])),
    ],
    ids=range(5),
)
def test_series_cross(value: Any) -> None:
    pd.testing.assert_series_equal(cross(value), value)


def test_columns_of_several_levels_cross() -> None:
    frame = pd.DataFrame(np.eye(2), columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]))

    pd.testing.assert_frame_equal(cross(frame, arrow=True), frame)


def test_a_time_zone_crosses_by_name() -> None:
    when = datetime.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))

    assert (cross(when), cross(when).utcoffset()) == (when, when.utcoffset())


class Own:
    """A class that can only be pickled."""

    def __init__(self) -> None:
        self.data = np.arange(3)


def test_what_only_pickle_can_carry_is_refused_by_name() -> None:
    with pytest.raises(
        crate.CrateError, match=r"^`x`: a value of type `test_crate\.Own` cannot cross as plain data$"
    ):
        cross([Own()])


def test_a_pickle_is_opened_only_by_whoever_trusts_it() -> None:
    np.testing.assert_array_equal(cross(Own(), pickled=True, trusted=True).data, [0, 1, 2])
    with pytest.raises(crate.CrateError, match=r"^what came is a pickle$"):
        cross(Own(), pickled=True)


def test_subclasses_are_not_taken_for_what_they_extend() -> None:
    with pytest.raises(crate.CrateError, match="OrderedDict"):
        cross(collections.OrderedDict(a=1))


def test_what_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)

    with pytest.raises(crate.CrateError, match=r"nested too deeply, or contains itself"):
        cross(loop)


@pytest.mark.parametrize(
    "node",
    [
        {"t": "ndarray", "dtype": "O", "shape": [1], "fortran": False, "b": 1},
        {"t": "ndarray", "dtype": "f8", "shape": [1 << 40], "fortran": False, "b": 1},
        {"t": "ndarray", "dtype": "f8", "shape": [-1], "fortran": False, "b": 1},
        {"t": "ndarray", "dtype": [["a", "O"]], "shape": [1], "fortran": False, "b": 1},
        {"t": "nullable", "dtype": "object", "v": [1]},
        {"t": "pickle", "b": 1, "out": []},
        {"t": "eval", "v": "1"},
        {"t": "arrow", "b": 1},
        {"t": "bytes", "b": 7},
    ],
    ids=lambda node: node["t"],
)
def test_hostile_crates_are_refused(node: object) -> None:
    head = json.dumps({"values": {"x": node}}).encode()

    with pytest.raises(crate.CrateError):
        crate.opened([head, pickle.dumps(print)[:8].ljust(8)], trusted=False)


def test_simple_values_are_what_the_table_says() -> None:
    for value in (
        range(1, 1 << 70, 3),
        slice(None, 2),
        bytearray(b"x"),
        float("inf"),
        {1, 2},
        decimal.Decimal("1.50"),
    ):
        assert cross(value) == value
    assert cross(uuid.UUID(int=5)) == uuid.UUID(int=5)
