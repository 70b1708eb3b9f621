"""Learning curves as charts of lines, in the coordinates of an SVG; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 12, 34
"""Margins, in the SVG's units."""
MOST_POINTS = 120
"""Of a line; a longer one is thinned out evenly."""
MOST_COLOURS = 8

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """One run's line: its label, the number of its colour, and its points as SVG writes them."""

    label: str
    colour: int
    points: str


@dataclass(frozen=True)
class Chart:
    """A chart; ticks are (place, label)."""

    title: str
    lines: Sequence[Line]
    across: Sequence[tuple[float, str]]
    up: Sequence[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = HEIGHT - BOTTOM
    right: int = WIDTH - RIGHT


def chart(title: str, lines: Mapping[str, Points]) -> Chart | None:
    """A chart of the finite points of some lines by their labels; None where there are none."""
    finite = {
        label: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for label, points in lines.items()
    }
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return None
    xs, ys = [x for x, _ in everything], [y for _, y in everything]
    across, up = _ticks(min(0.0, *xs), max(xs)), _ticks(min(ys), max(ys))
    to_x, to_y = _scale(across, LEFT, WIDTH - RIGHT), _scale(up, HEIGHT - BOTTOM, TOP)
    drawn = [
        Line(label, i % MOST_COLOURS, " ".join(f"{_at(x, to_x):.1f},{_at(y, to_y):.1f}" for x, y in _thinned(points)))
        for i, (label, points) in enumerate(finite.items())
        if points
    ]
    return Chart(
        title,
        drawn,
        [(round(_at(x, to_x), 1), f"{x:g}") for x in across],
        [(round(_at(y, to_y), 1), f"{y:g}") for y in up],
    )


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if high - low < 1e-9 * max(1.0, abs(low)):
        low, high = low - 0.5, high + 0.5
    ticks = MaxNLocator(nbins=4).tick_values(low, high)
    return [round(float(tick), 10) for tick in ticks]


def _scale(ticks: Sequence[float], first: float, last: float) -> tuple[float, float]:
    """Slope and offset that bring the first and the last tick to these places."""
    slope = (last - first) / (ticks[-1] - ticks[0])
    return slope, first - slope * ticks[0]


def _at(value: float, scale: tuple[float, float]) -> float:
    return scale[0] * value + scale[1]


def _thinned(points: Points) -> Points:
    step = math.ceil(len(points) / MOST_POINTS)
    # A line of one point would not be seen; from the point to itself, it is a dot.
    return [*points[:-1:step], points[-1], *points[:1]] if len(points) == 1 else [*points[:-1:step], points[-1]]
