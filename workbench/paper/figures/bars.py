"""Bars: the first metric of the report, setting by setting on every split, with intervals and every seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from workbench.evaluation.metrics import metrics
from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.data import FigureData, label_of, width_of
from workbench.paper.figures.dots import Group, dot_plot
from workbench.paper.figures.scores import score_of
from workbench.paper.style import DARK, PALETTE, SMALL, text_width, wrapped

LOWEST_LABEL = 30.0
"""A bar under this, in per cent, has its value above it."""
DOTS_FROM = 5
"""Settings: bars of more could not be told apart."""
SMALLEST_LABELLED = 0.25
"""Inches: a bar that is narrower has no number."""


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """One bar per setting and split: value, interval, and the value of each seed, as fractions."""
    grid = evaluated.grid
    metric, splits = grid.report.metrics[0], grid.splits
    bars = []
    for setting in (*grid.settings, *evaluated.sources):
        if setting not in evaluated.expressions:
            continue
        frame = evaluated.expressions[setting]
        for split in splits:
            if score := score_of(frame[frame["split"] == split], metric):
                bars.append({"setting": setting, "split": split, **score})
    settings = list(dict.fromkeys(bar["setting"] for bar in bars))
    return FigureData(
        {
            "metric": metric,
            "title": grid.title,
            "splits": list(splits),
            "settings": settings,
            "labels": {name: grid.label(name) for name in settings},
            "baseline": grid.baseline,
            "n": {name: max(max(1, len(b["seeds"])) for b in bars if b["setting"] == name) for name in settings},
            "bars": bars,
            "incomplete": [str(run) for run in evaluated.incomplete],
        }
    )


def draw(figure_data: FigureData) -> list[Figure]:
    """The picture: bars of up to four settings, a dot plot of more."""
    document = figure_data.document
    return _dots(document) if len(document["settings"]) >= DOTS_FROM else [_bars(document)]


def caption(document: Mapping[str, Any]) -> str:
    """What the marks are, and over how many seeds."""
    several = max(document["n"].values()) > 1
    counts = set(document["n"].values())
    n = f" n = {counts.pop()}." if len(counts) == 1 else " n as named."
    return (
        f"{metrics[document['metric']].label} in per cent, 95 % intervals over "
        f"{'seeds and images; small marks: single seeds.' + n if several else 'images alone, of one seed.'}"
    )


def key_columns(texts: Sequence[str], width: float) -> int:
    """In how many columns a key of these texts fits into so many inches."""
    widest = max(text_width(line, SMALL) for text in texts for line in text.split("\n"))
    return max(1, min(len(texts), int((width - 0.1) / (widest + 0.55))))


def names_of(document: Mapping[str, Any]) -> dict[str, str]:
    """The settings' names, with their number of seeds where these differ."""
    counts = document["n"]
    several = len(set(counts.values())) > 1
    return {s: label_of(document, s) + (f" (n = {counts[s]})" if several else "") for s in document["settings"]}


def _dots(document: Mapping[str, Any]) -> list[Figure]:
    columns, width = width_of(document)
    by_split = [
        {bar["setting"]: bar for bar in document["bars"] if bar["split"] == split} for split in document["splits"]
    ]
    most = len(by_split) if columns == 2 else 2
    groups = [
        Group(
            "" if start else document["title"], document["splits"][start : start + most], by_split[start : start + most]
        )
        for start in range(0, len(by_split), most)
    ]
    baseline = document.get("baseline")
    text = caption(document) + (" Square and line: the baseline." if baseline in document["settings"] else "")
    return dot_plot(groups, names_of(document), baseline, text, width)


def _bars(document: Mapping[str, Any]) -> Figure:
    settings, splits, metric = document["settings"], document["splits"], metrics[document["metric"]]
    bars = {(bar["setting"], bar["split"]): bar for bar in document["bars"]}
    _, inches = width_of(document)
    figure = Figure(figsize=(inches, 2.8), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(settings)
    names = names_of(document)
    for i, setting in enumerate(settings):
        colour = PALETTE[i % len(PALETTE)]
        present = [place for place, split in enumerate(splits) if (setting, split) in bars]
        here = [bars[setting, splits[place]] for place in present]
        value, low, high = (np.array([100 * bar[name] for bar in here]) for name in ("value", "low", "high"))
        places = np.array(present) + (i - (len(settings) - 1) / 2) * width
        label = wrapped(names[setting], 0.8 * inches, SMALL)
        axes.bar(places, value, width * 0.92, color=colour, label=label)
        axes.errorbar(
            places, value, yerr=[value - low, high - value], fmt="none", ecolor="black", elinewidth=0.8, capsize=2
        )
        if width * inches / len(splits) > SMALLEST_LABELLED:
            _label(axes, places, here, "white" if colour in DARK else "black")
        _draw_seeds(axes, places, here, width)
    axes.set_xticks(range(len(splits)), splits)
    axes.set_ylabel(f"{metric.label} (%)")
    axes.set_ylim(0, 100)
    text = wrapped(caption(document), inches - 0.1, SMALL)
    figure.legend(
        loc="outside upper left", ncols=key_columns(list(names.values()), inches), frameon=False, fontsize=SMALL,
        title=wrapped(document["title"], inches - 0.2, 8), title_fontsize=8, alignment="left",
    )  # fmt: skip
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL)
    return figure


def _draw_seeds(axes: Any, places: Any, bars: list[dict[str, Any]], width: float) -> None:
    for place, bar in zip(places, bars, strict=True):
        values = bar["seed_values"]
        if len(values) > 1:
            offsets = np.linspace(-0.3, 0.3, len(values)) * width
            axes.plot(
                place + offsets, [100 * value for value in values], "o", markersize=2.5, markerfacecolor="white",
                markeredgecolor="black", markeredgewidth=0.6, zorder=3,
            )  # fmt: skip


def _label(axes: Any, places: Any, bars: list[dict[str, Any]], colour: str) -> None:
    """Each bar's value in its middle; above all of its marks where the bar is too low for that."""
    for place, bar in zip(places, bars, strict=True):
        value, top = 100 * bar["value"], 100 * max(bar["value"], bar["high"], *bar["seed_values"])
        low = value < LOWEST_LABEL
        height, align = (top + 1.5, "bottom") if low else (value / 2, "center")
        axes.text(place, height, f"{value:.1f}", ha="center", va=align, fontsize=7, color="black" if low else colour)
