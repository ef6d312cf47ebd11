"""Outputs in every form, beside the stored ones."""

from __future__ import annotations

import base64
import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mlvm.reproduce import data, markup, pictures
from mlvm.reproduce.document import IDENTICAL, Likeness, Tolerance
from mlvm.reproduce.outputs import WIDGET, compare

USUAL = Tolerance()


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def shown(**forms: Any) -> dict[str, Any]:
    return {
        "output_type": "display_data",
        "metadata": {},
        "data": {k.replace("__", "/"): v for k, v in forms.items()},
    }


def error(name: str, value: str, trace: str = "") -> dict[str, Any]:
    return {"output_type": "error", "ename": name, "evalue": value, "traceback": [trace]}


def picture(*, size: tuple[int, int] = (320, 240), at: float = 0.5, level: int = 0, form: str = "PNG") -> str:
    """Return a picture of a disc, in base64."""
    made = Image.new("RGB", size, "white")
    width, height = size
    x, y, r = width * at, height / 2, width / 8
    ImageDraw.Draw(made).ellipse((x - r, y - r, x + r, y + r), fill=(level, level, 200))
    content = io.BytesIO()
    made.save(content, form, **({"compress_level": 1} if form == "PNG" and level == 1 else {}))
    return base64.b64encode(content.getvalue()).decode()


def one(
    stored: list[dict[str, Any]], now: list[dict[str, Any]], tolerance: Tolerance = USUAL
) -> tuple[bool, str]:
    """Return the only report's verdict, and its reasons or what is wrong."""
    (found,) = compare(stored, now, tolerance)
    return found.same, found.why or ", ".join(found.reasons)


def test_a_stream_cut_in_another_way_is_the_same() -> None:
    assert one([stream("a\n"), stream("b\n")], [stream("a\nb\n")]) == (True, "")


def test_texts_may_be_lists_of_lines() -> None:
    assert one([{**stream(""), "text": ["a\n", "b"]}], [stream("a\nb")]) == (True, "")


def test_the_order_between_two_streams_is_nobody_s_business() -> None:
    before, after = [stream("a"), stream("w", "stderr")], [stream("w", "stderr"), stream("a")]

    assert [found.same for found in compare(before, after, USUAL)] == [True, True]


def test_a_result_may_be_a_display() -> None:
    stored = {**shown(text__plain="1"), "output_type": "execute_result", "execution_count": 7}

    assert one([stored], [shown(text__plain="1")]) == (True, "")


def test_what_is_gone_and_what_is_new() -> None:
    assert one([shown(text__plain="1")], []) == (False, "text/plain is gone")
    assert one([], [shown(text__plain="1")]) == (False, "text/plain is new")


def test_a_progress_bar_alone_is_no_output() -> None:
    bar = stream("100%|####| 10/10 [00:01<00:00, 9.1it/s]\n", "stderr")

    assert one([bar], []) == (True, "progress bars")


def test_the_form_that_a_frontend_shows_counts() -> None:
    stored = shown(text__html="<b>1</b>", text__plain="one")

    assert one([stored], [shown(text__html="<b>1</b>", text__plain="other")]) == (True, "")
    assert one([stored], [shown(text__plain="one")]) == (False, "text/html is now text/plain")


def test_errors_are_compared_without_their_tracebacks() -> None:
    assert one([error("KeyError", "'a'", "line 1")], [error("KeyError", "'a'", "line 2")]) == (True, "")
    assert one([error("KeyError", "'a'")], []) == (False, "the stored run ended in KeyError: 'a'")
    assert one([], [error("KeyError", "'a'")]) == (False, "this run ended in KeyError: 'a'")


def test_of_a_widget_only_its_presence_is_compared() -> None:
    stored, now = ({"output_type": "display_data", "data": {WIDGET: {"model_id": name}}} for name in "ab")

    assert one([stored], [now]) == (True, "what a widget shows: only that there is one")


def test_json_before_html() -> None:
    plot = "application/vnd.plotly.v1+json"
    stored, now = (
        {"output_type": "display_data", "data": {plot: {"y": [1.0, value]}, "text/html": str(value)}}
        for value in (2.0, 2.0000001)
    )

    assert one([stored], [now]) == (True, "last digits of numbers")


@pytest.mark.parametrize(
    ("stored", "now", "why"),
    [
        ({"a": 1}, {"a": 2}, ".a: 1 is now 2"),
        ({"a": [1, 2]}, {"a": [1]}, ".a: 2 entries are now 1"),
        ({"a": 1}, {"b": 1}, ".a: gone"),
        ([1], {"a": 1}, "the document: [1] is now {'a': 1}"),
        ([True], [1], "[0]: True is now 1"),
        ({"a": {"b": "x"}}, {"a": {"b": "y"}}, ".a.b: line 1: `x` is now `y`"),
    ],
)
def test_json_differs_at_a_path(stored: object, now: object, why: str) -> None:
    assert data.compare(stored, now, USUAL) == Likeness(same=False, why=why)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(JSON)
def test_any_data_is_identical_to_itself(value: object) -> None:
    assert data.compare(value, value, Tolerance(strict=True)) == IDENTICAL


@given(JSON, JSON)
def test_data_are_alike_from_both_sides(one: object, other: object) -> None:
    assert data.compare(one, other, USUAL).same == data.compare(other, one, USUAL).same


TABLE = (
    '<style>#T_{0} td {{}}</style><table id="T_{0}"><tr><td id="T_{0}_r0" class="a b">{1}</td></tr></table>'
)


def test_ids_that_are_made_up_are_looked_past() -> None:
    found = markup.compare(TABLE.format("a1b2c", "x"), TABLE.format("00ff1", "x"), USUAL)

    assert found == Likeness(same=True, reasons=("ids",))


def test_a_text_in_a_table_is_not() -> None:
    found = markup.compare(TABLE.format("a1b2c", "x"), TABLE.format("00ff1", "y"), USUAL)

    assert (found.same, found.why) == (False, "line 6: `x` is now `y`")


def test_an_attribute_is_not() -> None:
    assert not markup.compare('<td class="a">1</td>', '<td class="b">1</td>', USUAL).same


def test_numbers_in_a_table_have_their_tolerance() -> None:
    found = markup.compare("<td>0.1</td>", "<td>0.10000001</td>", USUAL)

    assert found.reasons == ("last digits of numbers (relative difference up to 1.0e-07)",)


def test_when_an_svg_was_made_is_looked_past() -> None:
    svg = '<svg><metadata>{0}</metadata><g clip-path="url(#{1})"/><clipPath id="{1}"/></svg>'

    assert markup.compare(svg.format("2020", "pa1"), svg.format("2026", "pb2"), USUAL).same


@given(st.text(alphabet="<>/ab=\"'!-&;#x ", max_size=80))
def test_any_text_can_be_read_as_markup(text: str) -> None:
    assert markup.compare(text, text + " ", USUAL).same == markup.compare(text + " ", text, USUAL).same


def test_a_picture_written_in_another_way() -> None:
    plain = picture()
    again = Image.open(io.BytesIO(base64.b64decode(plain)))
    content = io.BytesIO()
    again.save(content, "PNG", compress_level=0)

    found = pictures.compare(plain, base64.b64encode(content.getvalue()).decode(), USUAL)

    assert found == Likeness(same=True, reasons=("how a picture is written",))


def test_a_picture_in_another_resolution() -> None:
    found = pictures.compare(picture(), picture(size=(400, 300)), USUAL)

    assert found.same
    assert found.reasons[0].startswith("looks of pictures (distance 0.0")


def test_a_picture_of_something_else() -> None:
    found = pictures.compare(picture(), picture(at=0.7), USUAL)

    assert not found.same
    assert found.why.startswith("another picture: distance ")


def test_a_picture_in_another_colour() -> None:
    assert not pictures.compare(picture(), picture(level=120), USUAL).same


def test_a_picture_of_another_shape() -> None:
    found = pictures.compare(picture(), picture(size=(320, 320)), USUAL)

    assert found.why == "320 x 240 points are now 320 x 320, which is another shape"


def test_strictly_a_picture_is_its_bytes() -> None:
    assert not pictures.compare(picture(), picture(size=(400, 300)), Tolerance(strict=True)).same


@settings(max_examples=20)
@given(st.binary(max_size=64))
def test_what_is_no_picture(content: bytes) -> None:
    damaged = base64.b64encode(b"\x89PNG\r\n\x1a\n" + content).decode()

    assert pictures.compare(picture(), damaged, USUAL).same is False


@settings(max_examples=20)
@given(st.floats(0.2, 0.8), st.floats(0.2, 0.8))
def test_the_distance_is_a_share_and_the_same_from_both_sides(one: float, other: float) -> None:
    mine, theirs = (
        Image.open(io.BytesIO(base64.b64decode(picture(at=at)))).convert("RGBA") for at in (one, other)
    )

    found = pictures.distance(mine, theirs)

    assert 0 <= found <= 1
    assert found == pytest.approx(pictures.distance(theirs, mine), rel=0.2)
