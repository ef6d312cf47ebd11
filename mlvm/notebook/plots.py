"""Small plots as inline SVG: a line, what is below it filled, no axes; coloured by Jupyter's own variables.

An SVG of a few hundred bytes needs no plotting library in the notebook's environment and follows light and dark themes.
"""

from __future__ import annotations

from html import escape

from mlvm.machine.overview import Figure

WIDTH, HEIGHT = 120, 28
#: Points that are drawn at most; more cannot be told apart at this width.
POINTS = 60


def plot(figure: Figure, *, now: float, span: float, top: float, colour: str, title: str) -> str:
    """Return an SVG of a figure over the last `span` seconds; its height is `top`, or more where there was more."""
    points = [(taken, amount) for taken, amount in figure.points if taken >= now - span]
    highest = max([top, *(amount for _, amount in points)], default=top) or 1.0
    shown = [
        (WIDTH * (1 - (now - taken) / span), HEIGHT - 1 - (HEIGHT - 3) * max(0.0, amount) / highest)
        for taken, amount in _thinned(points, span)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
    drawn = ""
    if len(shown) > 1:
        area = f"{shown[0][0]:.1f},{HEIGHT} {line} {shown[-1][0]:.1f},{HEIGHT}"
        drawn = (
            f'<polygon points="{area}" fill="{colour}" opacity=".18"/>'
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"'
            ' stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
        )
    return (
        f'<svg class="mlvm-plot" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img">'
        f"<title>{escape(title)}</title>{drawn}</svg>"
    )


def _thinned(points: list[tuple[float, float]], span: float) -> list[tuple[float, float]]:
    """Return at most `POINTS` points: of those that would fall on one, the highest, so that no peak is lost."""
    highest: dict[int, tuple[float, float]] = {}
    for taken, amount in points:
        place = int(taken / span * POINTS)
        if place not in highest or highest[place][1] <= amount:
            highest[place] = (taken, amount)
    return list(highest.values())
