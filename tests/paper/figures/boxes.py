"""The boxes of all texts of a figure, as they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every visible text with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    return [(text.get_text(), text.get_window_extent(renderer)) for text in _visible(figure)]


def _visible(artist: object) -> Iterator[Text]:
    for child in artist.get_children():  # type: ignore[attr-defined]
        if not child.get_visible() or (isinstance(child, Axis) and not child.axes.axison):
            continue
        if isinstance(child, Axis):  # it keeps ticks outside of the view, which are not drawn
            low, high = sorted(child.get_view_interval())
            labels = [tick.label1 for tick in child.get_major_ticks() if low <= tick.get_loc() <= high]
            yield from (one for one in (child.label, *labels) if one.get_visible() and one.get_text().strip())
            continue
        if isinstance(child, Text):
            if child.get_text().strip():
                yield child
        else:
            yield from _visible(child)


def mistakes(figure: Figure) -> list[str]:
    """Texts that overlap, by more than a pixel at screen size, or that the figure's edge clips."""
    found, drawn = [], texts(figure)
    for text, box in drawn:
        if box.x0 < 0 or box.y0 < 0 or box.x1 > figure.bbox.width or box.y1 > figure.bbox.height:
            found.append(f"{text!r} is clipped")
    for (text, box), (other, second) in combinations(drawn, 2):
        across = min(box.x1, second.x1) - max(box.x0, second.x0)
        down = min(box.y1, second.y1) - max(box.y0, second.y0)
        if across > 1 and down > 1:
            found.append(f"{text!r} overlaps {other!r}")
    return found
