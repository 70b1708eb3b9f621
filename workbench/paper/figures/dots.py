"""Dot plots: a row per setting, a panel per split or bin, with intervals and seeds. They take any number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.paper.style import MARGIN, PAGE, PALETTE, RC, SMALL, line_height, text_width, wrapped

ROW = 0.19
"""Inches from one setting to the next."""
NAMES = 0.36
"""Of the figure's width: the most that the settings' names take; longer ones are wrapped."""
BETWEEN = 0.13
"""Inches between panels."""
AXIS = 0.2
"""Inches for the numbers below a panel."""
DOT, BASELINE = PALETTE[2], "black"


@dataclass(frozen=True)
class Group:
    """A line of panels with the same rows.

    Attributes:
        title: above the line.
        panels: titles of the panels.
        scores: of each panel, by setting; see `scores.score_of`.
    """

    title: str
    panels: Sequence[str]
    scores: Sequence[Mapping[str, Mapping[str, Any]]]


def dot_plot(
    groups: Sequence[Group], names: Mapping[str, str], baseline: str | None, caption: str, width: float
) -> list[Figure]:
    """The pages.

    Args:
        names: of the rows, from top to bottom, with what they are called.
        baseline: the setting at whose value each panel has a line.
        width: of the figure in inches.
    """
    rows = list(names)
    groups = [replace(group, title=wrapped(group.title, 0.85 * width, 8)) for group in groups]  # it is drawn in bold
    most = max(1, int((PAGE - 2.0) / ROW))
    parts = [rows[start : start + most] for start in range(0, len(rows), most)]
    figures = []
    for part in parts:
        texts = {name: wrapped(names[name], NAMES * width, SMALL) for name in part}
        pages: list[list[Group]] = [[]]
        for group in groups:
            if pages[-1] and _height([*pages[-1], group], texts, caption, width) > PAGE:
                pages.append([])
            pages[-1].append(group)
        figures += [_page(page, texts, baseline, caption, width, _limits(groups)) for page in pages]
    return figures


def _limits(groups: Sequence[Group]) -> tuple[float, float]:
    """One scale for all panels, in per cent; differences of a few points must be seen."""
    scores = [score for group in groups for panel in group.scores for score in panel.values()]
    low = min(min(score["low"], *score["seed_values"], score["value"]) for score in scores)
    high = max(max(score["high"], *score["seed_values"], score["value"]) for score in scores)
    room = 0.05 * max(high - low, 0.02)
    return 100 * max(0.0, low - room), 100 * min(1.0, high + room)


def _rows_height(texts: Mapping[str, str]) -> list[float]:
    return [max(ROW, line_height(SMALL) * (text.count("\n") + 1) + 0.06) for text in texts.values()]


def _group_height(group: Group, texts: Mapping[str, str], panel: float) -> float:
    titles = max(wrapped(title, panel, SMALL).count("\n") + 1 for title in group.panels) * line_height(SMALL)
    own = line_height(8) * (group.title.count("\n") + 1) + 0.05 if group.title else 0.0
    return own + titles + 0.05 + sum(_rows_height(texts)) + AXIS + 0.1


def _columns(groups: Sequence[Group], texts: Mapping[str, str], width: float) -> tuple[float, float]:
    """Where panels begin, and the width of each."""
    left = MARGIN + max(text_width(line, SMALL) for text in texts.values() for line in text.split("\n")) + 0.12
    most = max(len(group.panels) for group in groups)
    return left, (width - left - MARGIN - 0.12 - BETWEEN * (most - 1)) / most


def _height(groups: Sequence[Group], texts: Mapping[str, str], caption: str, width: float) -> float:
    panel = _columns(groups, texts, width)[1]
    lines = wrapped(caption, width - 2 * MARGIN, SMALL).count("\n") + 1
    return sum(_group_height(group, texts, panel) for group in groups) + line_height(SMALL) * lines + 3 * MARGIN


def _page(
    groups: Sequence[Group],
    texts: Mapping[str, str],
    baseline: str | None,
    caption: str,
    width: float,
    limits: tuple[float, float],
) -> Figure:
    height = _height(groups, texts, caption, width)
    figure = Figure(figsize=(width, height))
    left, panel = _columns(groups, texts, width)
    top = MARGIN

    def say(across: float, down: float, text: str, size: float, **how: Any) -> None:
        figure.text(across / width, 1 - down / height, text, fontsize=size, linespacing=1.1, **how)

    for group in groups:
        end = top + _group_height(group, texts, panel)
        if group.title:
            say(MARGIN, top, group.title, 8, va="top", weight="bold")
        heights = _rows_height(texts)
        bottom = end - AXIS - 0.1
        places, above = {}, 0.0
        for name, own in zip(texts, heights, strict=True):
            places[name] = above + own / 2
            say(left - 0.08, bottom - sum(heights) + places[name], texts[name], SMALL, va="center", ha="right")
            above += own
        for number, (title, scores) in enumerate(zip(group.panels, group.scores, strict=True)):
            across = left + number * (panel + BETWEEN)
            text = wrapped(title, panel, SMALL)
            say(across + panel / 2, bottom - sum(heights) - 0.05, text, SMALL, ha="center", va="bottom")
            box = (across / width, 1 - bottom / height, panel / width, sum(heights) / height)
            axes = figure.add_axes(box)
            _panel(axes, places, scores, baseline, limits, sum(heights))
        top = end
    say(MARGIN, top + MARGIN, wrapped(caption, width - 2 * MARGIN, SMALL), SMALL, va="top")
    return figure


def _panel(
    axes: Axes,
    places: Mapping[str, float],
    scores: Mapping[str, Mapping[str, Any]],
    baseline: str | None,
    limits: tuple[float, float],
    height: float,
) -> None:
    if baseline is not None and baseline in scores:
        axes.axvline(100 * scores[baseline]["value"], color="#BBBBBB", linewidth=0.8, zorder=0)
    for name, place in places.items():
        axes.axhline(place, color="#EEEEEE", linewidth=0.6, zorder=-1)
        if name not in scores:
            axes.text(limits[0] + 0.02 * (limits[1] - limits[0]), place, "–", va="center", fontsize=SMALL)
            continue
        score, colour = scores[name], BASELINE if name == baseline else DOT
        axes.plot([100 * score["low"], 100 * score["high"]], [place, place], color=colour, linewidth=1.2)
        if len(score["seed_values"]) > 1:
            values = [100 * value for value in score["seed_values"]]
            axes.plot(values, [place] * len(values), "|", color=colour, markersize=5, markeredgewidth=0.7)
        axes.plot(100 * score["value"], place, "s" if name == baseline else "o", color=colour, markersize=4)
    axes.set_xlim(*limits)
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    inches = axes.bbox.width / RC["figure.dpi"]
    axes.locator_params(axis="x", nbins=max(1, min(4, int(inches / 0.4))))
    axes.tick_params(axis="x", labelsize=SMALL - 0.5, length=2, pad=1.5)
    _keep_inside(axes)


def _keep_inside(axes: Axes) -> None:
    """The numbers at a panel's ends are moved inwards, so that those of the next panel do not touch them."""
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    for tick, label in zip(ticks, axes.get_xticklabels(), strict=True):
        share = (tick - low) / (high - low)
        label.set_horizontalalignment("left" if share < 0.06 else "right" if share > 0.94 else "center")
