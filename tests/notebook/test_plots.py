"""The small plots: well-formed, within their frame, and small."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from mlvm.machine.overview import Figure
from mlvm.notebook.plots import HEIGHT, POINTS, WIDTH, plot

NUMBERS = st.floats(min_value=0, max_value=1e15, allow_nan=False)


def points_of(svg: str) -> list[tuple[float, float]]:
    found = re.search(r'<polyline points="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in (p.split(",") for p in found[1].split())] if found else []


@given(amounts=st.lists(NUMBERS, max_size=400), top=NUMBERS)
def test_every_plot_is_within_its_frame(amounts: list[float], top: float) -> None:
    figure = Figure(points=tuple((float(taken), amount) for taken, amount in enumerate(amounts)))

    svg = plot(figure, now=float(len(amounts)), span=300, top=top, colour="red", title='<&"> CPU')

    ElementTree.fromstring(svg)
    points = points_of(svg)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert len(points) <= POINTS + 1


def test_a_peak_is_not_lost() -> None:
    figure = Figure(points=tuple((float(taken), 9.0 if taken == 150 else 1.0) for taken in range(300)))

    svg = plot(figure, now=300, span=300, top=10, colour="red", title="")

    heights = sorted(y for _, y in points_of(svg))
    assert heights[0] < 6 < 20 < heights[1]


def test_what_is_higher_than_the_top_raises_it() -> None:
    figure = Figure(points=((0.0, 1.0), (10.0, 500.0)))

    svg = plot(figure, now=10, span=300, top=1, colour="red", title="")

    assert points_of(svg)[-1] == (WIDTH, 2.0)


def test_one_look_is_no_line() -> None:
    assert "<polyline" not in plot(
        Figure(points=((0.0, 1.0),)), now=0, span=300, top=1, colour="red", title=""
    )
