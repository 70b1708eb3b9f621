"""Which words and patches made a mask: the picture with its mask, maps of patches, coloured words, and faithfulness."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from operator import mul
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from workbench.analysis.attribution import METHODS, Attribution, Explanation
from workbench.analysis.faithfulness import MEASURES, Compared
from workbench.paper.figures.panels import greyed, outline
from workbench.paper.fonts import drawable, is_right_to_left
from workbench.paper.overlay import overlay
from workbench.paper.style import RC, WIDTH, styled

SCALE = "RdBu_r"
"""Diverging, and one that colour-blind readers can tell apart (ColorBrewer)."""
MARGIN, LINE, LABEL = 0.12, 0.16, 1.35
"""Inches: around the page, of a line of text, and of the names of methods."""
WORD_LINE, GAP = 0.36, 0.07
"""Inches: of a line of words with their values, and between words."""
LONGEST_WORD, LONGEST_LINE = 28, 74
STRETCHED = 6
"""Pictures whose sides differ by more than this factor are not shown in proportion."""
LEGEND = 0.85
SMALL = 6.5


@styled
def draw(pixels: NDArray[np.uint8], explanations: Sequence[Explanation], run: str) -> Figure:
    """The picture of one or several sentences about one image.

    Args:
        pixels: height×width×3.
        run: the name of what was asked.
    """
    limits = {over: _limit(over, explanations) for over in ("words", "patches")}
    blocks = [_Block(pixels, explanation, limits) for explanation in explanations]
    height = sum(block.height for block in blocks) + LEGEND + 2 * MARGIN
    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasAgg(figure)  # which measures words
    top = height - MARGIN
    for block in blocks:
        block.draw(figure, top)
        top -= block.height
    _legend(figure, limits, explanations[0].unit, run)
    return figure


def _limit(over: str, explanations: Sequence[Explanation]) -> float:
    """The largest absolute value of all words or of all patches that are shown; 0 where there are none."""
    values = [
        np.nan_to_num(one.values).ravel()
        for explanation in explanations
        for one in explanation.attributions
        if METHODS[one.method].over == over
    ]
    return float(np.abs(np.concatenate(values)).max(initial=0)) if values else 0.0


class _Block:
    """All about one sentence, from top to bottom: heading, pictures, words, faithfulness. Sizes are inches."""

    def __init__(self, pixels: NDArray[np.uint8], explanation: Explanation, limits: dict[str, float]) -> None:
        self.pixels, self.explanation, self.limits = pixels, explanation, limits
        of = {
            over: [one for one in explanation.attributions if METHODS[one.method].over == over]
            for over in ("words", "patches")
        }
        self.words, self.patches = of["words"], of["patches"]
        heading, self.families = drawable(f"“{explanation.sentence}”")
        self.heading = textwrap.fill(heading, LONGEST_LINE, max_lines=3, placeholder=" …")
        self.heading_height = LINE * (self.heading.count("\n") + 2.4)
        self.picture_height = min(2.1, (WIDTH - 2 * MARGIN) / (1 + len(self.patches)))
        self.lines = _lines(explanation)
        self.strip_height = WORD_LINE * len(self.lines) + 0.08
        self.table_height = LINE * (len(explanation.attributions) + 3.6)
        self.height = (
            self.heading_height + self.picture_height + 2 * LINE + len(self.words) * self.strip_height
        ) + self.table_height  # fmt: skip

    def draw(self, figure: Figure, top: float) -> None:
        """Draw it below `top`."""
        explanation = self.explanation
        page = _page(figure)
        page.text(MARGIN, top, self.heading, va="top", fontsize=9, fontweight="bold", fontfamily=self.families)
        target = f"{explanation.target} = {_number(explanation.answer, explanation.unit)} ({explanation.unit})"
        page.text(MARGIN, top - self.heading_height + 0.1, f"attributed: {target}", va="bottom", color="0.3")
        top -= self.heading_height
        self._pictures(figure, top)
        top -= self.picture_height + 2 * LINE
        for one in self.words:
            page.text(MARGIN, top - 0.1, METHODS[one.method].label, va="center")
            self._strip(page, one, top)
            top -= self.strip_height
        self._table(page, top)

    def _pictures(self, figure: Figure, top: float) -> None:
        explanation, count = self.explanation, 1 + len(self.patches)
        width = (WIDTH - 2 * MARGIN) / count
        height, across = self.pixels.shape[:2]
        stretched = max(height, across) > STRETCHED * min(height, across)
        size = figure.get_size_inches()
        panels: list[tuple[str, Attribution | None]] = [("prediction", None)]
        panels += [(f"patches, {METHODS[one.method].label}", one) for one in self.patches]
        for place, (title, one) in enumerate(panels):
            box = (MARGIN + place * width, top - LINE - self.picture_height, width - 0.08, self.picture_height)
            axes = figure.add_axes((box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]))
            axes.set_title(title + (", stretched" if stretched else ""), pad=2)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            aspect: Literal["auto", "equal"] = "auto" if stretched else "equal"
            if one is None:
                axes.imshow(overlay(self.pixels, explanation.mask), aspect=aspect, interpolation="nearest")
                continue
            axes.imshow(greyed(self.pixels), aspect=aspect, interpolation="nearest")
            limits, mapped = axes.axis(), explanation.maps[one.method]
            extent = (-0.5, across - 0.5, height - 0.5, -0.5)
            coloured = _colours()(_norm(self.limits["patches"])(mapped))
            axes.imshow(coloured, aspect=aspect, interpolation="nearest", extent=extent)
            axes.axis(limits)
            if min(height, across) > 1 and not explanation.mask.all():
                outline(axes, explanation.mask.astype(np.uint8))

    def _strip(self, page: Axes, one: Attribution, top: float) -> None:
        """The words, coloured, each with its value below it."""
        norm, colours, unit = _norm(self.limits["words"]), mpl.colormaps[SCALE], self.explanation.unit
        backwards = is_right_to_left(self.explanation.sentence)
        for line in self.lines:
            x = WIDTH - MARGIN if backwards else MARGIN + LABEL
            for text, families, width, index in line:
                centre = x - width / 2 if backwards else x + width / 2
                value = float("nan") if index is None else float(one.values[index])
                is_read = not math.isnan(value)
                face = colours(norm(value)) if is_read else (0.93, 0.93, 0.93, 1.0)
                page.text(
                    centre, top - 0.1, text, ha="center", va="center", fontfamily=families, color=_ink(face),
                    fontstyle="normal" if is_read else "italic",
                    bbox={"boxstyle": "round,pad=0.18,rounding_size=0.1", "facecolor": face, "edgecolor": "0.75",
                          "linewidth": 0.4},
                )  # fmt: skip
                below = _number(value, unit, "+") if is_read else ""
                page.text(centre, top - 0.27, below, ha="center", va="center", fontsize=SMALL, color="0.25")
                x += (-1 if backwards else 1) * (width + GAP)
            top -= WORD_LINE

    def _table(self, page: Axes, top: float) -> None:
        """Every measure of every method, beside that of random attributions."""
        unit, start = self.explanation.unit, MARGIN + LABEL + 0.25
        step = (WIDTH - MARGIN - start) / len(MEASURES)
        page.text(MARGIN, top - LINE / 2, "faithfulness", va="center", fontsize=SMALL, fontweight="bold")
        for column, (name, measure) in enumerate(MEASURES.items()):
            heading = f"{name}, {measure.better} is better"
            page.text(
                start + column * step, top - LINE / 2, heading, va="center", fontsize=SMALL - 0.8, fontweight="bold"
            )
        for row, one in enumerate(self.explanation.attributions, start=1):
            y = top - LINE * (row + 0.5)
            method = METHODS[one.method]
            page.text(MARGIN, y, f"{method.over}, {method.label}", va="center", fontsize=SMALL)
            for column, compared in enumerate(one.faithfulness.values()):
                text, is_better = _cell(compared, unit), compared.separates
                page.text(
                    start + column * step, y, text, va="center", fontsize=SMALL - 0.5,
                    color="black" if is_better else "0.45", fontweight="bold" if is_better else "normal",
                )  # fmt: skip
        page.text(
            MARGIN, top - LINE * (len(self.explanation.attributions) + 1.2), va="top", fontsize=SMALL, color="0.3",
            s="in brackets: 95 % interval of random attributions, the same values at random places; *: better than "
            "random;\n≈: does not separate from random; ?: too few distinct values to tell",
        )  # fmt: skip


def _cell(compared: Compared, unit: str) -> str:
    if math.isnan(compared.value):
        return "undefined"
    numbers = (compared.value, compared.low, compared.high)
    if compared.name == "infidelity":  # squared, so it may be small
        value, low, high = (f"{number:.2g}" for number in numbers)
    else:
        value, low, high = (_number(number, "" if compared.name == "saco" else unit) for number in numbers)
    return f"{value} [{low}, {high}] {compared.mark}"


Placed = tuple[str, list[str], float, int | None]
"""A word as it is drawn, its fonts, its width in inches, and its index; None for what stands for those left out."""


def _lines(explanation: Explanation) -> list[list[Placed]]:
    """The words in lines that fit on the page; those past what the model reads are only counted."""
    cut = [word for word in explanation.words if word.read == "cut" and not word.tokens]
    words: list[tuple[str, int | None]] = [
        (word.text, index) for index, word in enumerate(explanation.words) if word not in cut
    ]
    if cut:
        words.append((f"… {len(cut)} more: past what the model reads", None))
    room = WIDTH - 2 * MARGIN - LABEL
    lines: list[list[Placed]] = [[]]
    used = 0.0
    for text, index in words:
        longest = LONGEST_WORD if index is not None else LONGEST_LINE
        shown, families = drawable(text if len(text) <= longest else text[: longest - 1] + "…")
        width = min(max(_width(shown, families) + 0.1, 0.34), room)
        if lines[-1] and used + width > room:
            lines.append([])
            used = 0.0
        lines[-1].append((shown, families, width, index))
        used += width + GAP
    return lines


def _width(text: str, families: list[str]) -> float:
    """Inches that a text takes in the size of the figure's font."""
    with mpl.rc_context(RC):
        figure = Figure(figsize=(WIDTH, 1))
        canvas: Any = FigureCanvasAgg(figure)
        box = figure.text(0, 0, text, fontfamily=families).get_window_extent(canvas.get_renderer())
        return float(box.width / figure.dpi)


def _page(figure: Figure) -> Axes:
    """Axes over the whole page whose coordinates are inches; one for all blocks."""
    for axes in figure.axes:
        if axes.get_label() == "page":
            return axes
    width, height = figure.get_size_inches()
    page = figure.add_axes((0, 0, 1, 1), label="page", zorder=-1)
    page.set(xlim=(0, width), ylim=(0, height))
    page.axis("off")
    return page


def _norm(limit: float) -> Normalize:
    return Normalize(-(limit or 1.0), limit or 1.0)


def _ink(face: Sequence[float]) -> str:
    return "black" if np.dot(face[:3], (0.299, 0.587, 0.114)) > 0.5 else "white"


def _colours() -> ListedColormap:
    """The scale as it lies over a picture: the nearer to 0, the more of the picture shows."""
    values = np.linspace(-1, 1, 257)
    colours = mpl.colormaps[SCALE]((values + 1) / 2)
    colours[:, 3] = 0.1 + 0.8 * np.abs(values) ** 0.5
    return ListedColormap(colours)


def _number(value: float, unit: str, sign: str = "") -> str:
    return f"{value:{sign}z.{3 if unit == 'IoU' else 2}f}".replace("-", "−")


def _legend(figure: Figure, limits: dict[str, float], unit: str, run: str) -> None:
    """One bar: the colours of words and of patches, which have the same zero and a largest value each."""
    width, height = figure.get_size_inches()
    scales = [(over, limit) for over, limit in limits.items() if limit > 0]
    page = _page(figure)
    page.text(MARGIN, 0.5, "lowers the target", color=mpl.colormaps[SCALE](0.08), va="center")
    page.text(WIDTH - MARGIN, 0.5, "raises the target", color=mpl.colormaps[SCALE](0.92), va="center", ha="right")
    page.text(MARGIN, MARGIN / 2, f"run: {drawable(run)[0]}", fontsize=SMALL, color="0.3", va="bottom")
    bar = figure.add_axes((1.4 / width, 0.44 / height, (WIDTH - 2.8) / width, 0.12 / height))
    over, limit = scales[0] if scales else ("words", 0.0)
    figure.colorbar(ScalarMappable(_norm(limit), SCALE), cax=bar, orientation="horizontal")
    bar.set_xlabel(f"{over}, {unit}", fontsize=SMALL, labelpad=1)
    bar.tick_params(labelsize=SMALL, pad=1)
    for (_, first), (other, second) in pairwise(scales):
        above = bar.secondary_xaxis("top", functions=(partial(mul, second / first), partial(mul, first / second)))
        above.set_xlabel(f"{other}, {unit}", fontsize=SMALL, labelpad=2)
        above.tick_params(labelsize=SMALL, pad=1)
