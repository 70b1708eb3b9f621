"""Pages of pictures: a band per expression or setting, its panels in as many lines as they need, by plain inches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from workbench.paper.figures.chosen import Chosen
from workbench.paper.figures.colours import brightness_of
from workbench.paper.fonts import families_of, fitted
from workbench.paper.style import ERROR, MARGIN, PAGE, SMALL, line_height

GAP = 0.07
"""Inches between panels."""
LARGEST = 1.8
"""Inches: the side of a panel where there is room for more."""
SMALLEST = {1: 0.73, 2: 1.0}
"""Inches by the figure's columns: panels go into a further line rather than below this."""
MANY, SMALLEST_OF_MANY = 10, 0.8
"""From so many panels on, in two columns, they may be this small."""
BADGE = 0.18
"""Inches at the left of a label, for a panel's badge."""
Draw = Callable[[Axes], None]


@dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: above it.
        group: panels of different groups are not in one line, unless all of the band are.
        label: below it.
        badge: a letter at the left of the label, where it can cover nothing.
    """

    draw: Draw
    title: str = ""
    group: str = ""
    label: str = ""
    badge: str = ""


@dataclass(frozen=True)
class Band:
    """Panels that belong together.

    Attributes:
        heading: a text above them, across the figure.
        picture: what stands at the left, beside all lines of panels.
        ratio: height of a panel by its width.
    """

    heading: str
    panels: Sequence[Panel]
    picture: Draw | None = None
    ratio: float = 1.0


@dataclass(frozen=True)
class Foot:
    """What stands below, on every page: a key of so many inches, drawn on a figure from an offset, and a caption."""

    caption: str
    key_height: float = 0.0
    key: Callable[[Figure, float], None] | None = None


class Sheet:
    """A page under construction; offsets are inches from its top left."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height))
        self.width, self.height = width, height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes for a picture."""
        box = (left / self.width, 1 - (top + height) / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_anchor("N")
        return axes

    def text(self, left: float, top: float, text: str, size: float = SMALL, centred: bool = False, **how: Any) -> None:
        """A text whose upper edge is at `top`."""
        align = "center" if centred else "left"
        how = {"va": "top", "fontfamily": families_of(text), **how}
        self.figure.text(
            left / self.width, 1 - top / self.height, text, fontsize=size, ha=align, linespacing=1.1, **how
        )  # fmt: skip


@dataclass(frozen=True)
class _Shape:
    """How the panels of all bands lie."""

    width: float
    side: float
    left: float
    lines: tuple[tuple[int, ...], ...]

    def at(self, place: int) -> float:
        return self.left + place * (self.side + GAP)


def _shape(bands: Sequence[Band], columns: int, width: float) -> _Shape:
    count = max(len(band.panels) for band in bands)
    beside = int(any(band.picture is not None for band in bands))
    least = SMALLEST_OF_MANY if columns == 2 and count >= MANY else SMALLEST[columns]
    room = width - 2 * MARGIN
    fit = max(1, int((room + GAP + 1e-9) / (least + GAP)) - beside)
    groups = [panel.group for panel in max(bands, key=lambda band: len(band.panels)).panels]
    lines = [list(range(count))]
    if count > fit:
        lines = [[i for i, one in enumerate(groups) if one == group] for group in dict.fromkeys(groups)]
        lines = [part for line in lines for part in _parts(line, fit)]
    most = max(map(len, lines)) + beside
    side = min(LARGEST, (room - GAP * (most - 1)) / most)
    left = MARGIN + beside * (side + GAP)
    return _Shape(width, side, left, tuple(tuple(line) for line in lines))


def _parts(line: list[int], most: int) -> list[list[int]]:
    """In as few parts as there can be, of nearly the same length."""
    count = -(-len(line) // most)
    size = -(-len(line) // count)
    return [line[start : start + size] for start in range(0, len(line), size)]


def compose(bands: Sequence[Band], foot: Foot, columns: int, width: float) -> list[Figure]:
    """The pages: as many bands on each as fit, with the foot below."""
    shape = _shape(bands, columns, width)
    caption = fitted(foot.caption, width - 2 * MARGIN, SMALL)
    end = foot.key_height + line_height(SMALL) * (caption.count("\n") + 1) + 2 * MARGIN
    shared = len(shape.lines) == 1 and all(
        [panel.title for panel in band.panels] == [panel.title for panel in bands[0].panels] for band in bands
    )
    top = MARGIN + (_titles(bands[0], shape.lines[0], shape.side)[1] if shared else 0)
    pages: list[list[Band]] = [[]]
    height = top + end
    for band in bands:
        own = _height(band, shape, shared)
        if pages[-1] and height + own > PAGE:
            pages.append([])
            height = top + end
        pages[-1].append(band)
        height += own
    return [_page(page, shape, shared, foot, caption, end, top) for page in pages]


def _page(
    bands: Sequence[Band], shape: _Shape, shared: bool, foot: Foot, caption: str, end: float, top: float
) -> Figure:
    height = top + end + sum(_height(band, shape, shared) for band in bands)
    sheet = Sheet(shape.width, height)
    if shared:
        _draw_titles(sheet, bands[0], shape.lines[0], shape, MARGIN)
    for band in bands:
        top = _draw_band(sheet, band, shape, shared, top)
    if foot.key is not None:
        foot.key(sheet.figure, top)
    sheet.text(MARGIN, top + foot.key_height + MARGIN, caption)
    return sheet.figure


def _titles(band: Band, line: Sequence[int], side: float) -> tuple[list[str], float]:
    """The titles of a line's panels, and the inches that they take."""
    titles = [_in_lines(band.panels[i].title, side) for i in line if i < len(band.panels)]
    most = max((title.count("\n") + 1 for title in titles if title), default=0)
    return titles, most * line_height(SMALL) + (0.03 if most else 0)


def _in_lines(text: str, width: float) -> str:
    return "\n".join(fitted(line, width, SMALL) for line in text.split("\n")) if text else ""


def _labels(band: Band, line: Sequence[int], side: float) -> tuple[list[str], float]:
    badges = any(panel.badge for panel in band.panels)
    labels = [_in_lines(band.panels[i].label, side - BADGE * badges) for i in line if i < len(band.panels)]
    most = max((label.count("\n") + 1 for label in labels if label), default=0)
    return labels, most * line_height(SMALL) + (0.06 if most else 0.02)


def _heading(band: Band, width: float) -> tuple[str, float]:
    text = fitted(band.heading, width - 2 * MARGIN, 8) if band.heading else ""
    return text, (line_height(8) * (text.count("\n") + 1) + 0.04) if text else 0.0


def _height(band: Band, shape: _Shape, shared: bool) -> float:
    height = _heading(band, shape.width)[1] + GAP
    for line in shape.lines:
        if any(i < len(band.panels) for i in line):
            height += shape.side * band.ratio + _labels(band, line, shape.side)[1]
            height += 0 if shared else _titles(band, line, shape.side)[1]
    return height


def _draw_titles(sheet: Sheet, band: Band, line: Sequence[int], shape: _Shape, top: float) -> float:
    titles, height = _titles(band, line, shape.side)
    for place, title in enumerate(titles):
        # By the last line's base, so that letters below the line in one title do not lift it.
        sheet.text(shape.at(place) + shape.side / 2, top + height - 0.06, title, centred=True, va="baseline")
    return height


def _draw_band(sheet: Sheet, band: Band, shape: _Shape, shared: bool, top: float) -> float:
    """Returns where it ends."""
    heading, height = _heading(band, shape.width)
    if heading:
        sheet.text(MARGIN, top, heading, size=8)
    top += height
    for number, line in enumerate(shape.lines):
        here = [i for i in line if i < len(band.panels)]
        if not here:
            continue
        top += 0 if shared else _draw_titles(sheet, band, line, shape, top)
        tall = shape.side * band.ratio
        if band.picture is not None and number == 0:
            band.picture(sheet.axes(MARGIN, top, shape.side, tall))
        labels, height = _labels(band, line, shape.side)
        for place, (i, label) in enumerate(zip(here, labels, strict=True)):
            left = shape.at(place)
            band.panels[i].draw(sheet.axes(left, top, shape.side, tall))
            if label:
                beside = BADGE / 2 if any(panel.badge for panel in band.panels) else 0.0
                sheet.text(left + shape.side / 2 + beside, top + tall + 0.03, label, centred=True)
            if badge := band.panels[i].badge:
                box = {"facecolor": ERROR, "edgecolor": "none", "pad": 1.0}
                sheet.text(left + 0.03, top + tall + 0.035, badge, size=6.5, color="white", weight="bold", bbox=box)
        top += tall + height
    return top + GAP


def image_arrays(chosen: Chosen) -> dict[str, NDArray[np.uint8]]:
    """`image.I` and `ground_truth.I` of each expression I, at the image's original size."""
    arrays = {f"image.{i}": chosen.dataset.image(e) for i, e in enumerate(chosen.expressions)}
    return arrays | {f"ground_truth.{i}": chosen.dataset.mask(e) for i, e in enumerate(chosen.expressions)}


def ratio_of(image: NDArray[np.uint8]) -> float:
    """Height by width, within what a page has room for."""
    return float(min(1.4, image.shape[0] / image.shape[1]))


def photo(axes: Axes, image: NDArray[np.generic], ground_truth: NDArray[np.uint8]) -> None:
    """An image with the referent's outline."""
    axes.imshow(image, interpolation="nearest" if image.shape[1] < 200 else "antialiased")
    outline(axes, ground_truth)


def outline(axes: Axes, ground_truth: NDArray[np.uint8]) -> None:
    """The outline of a mask, white on black; of an empty one, nothing."""
    if ground_truth.any():
        limits = axes.axis()
        framed = np.pad(ground_truth, 1)  # so that the outline is closed where a mask ends with the picture
        across, down = np.arange(framed.shape[1]) - 1, np.arange(framed.shape[0]) - 1
        for width, colour in ((2.0, "black"), (0.8, "white")):
            axes.contour(across, down, framed, [0.5], colors=colour, linewidths=width)
        axes.axis(limits)


def greyed(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """An image in light greys from 0 to 1, on which colours can be told apart."""
    return np.repeat((0.38 + 0.57 * brightness_of(image))[..., None], 3, axis=2)
