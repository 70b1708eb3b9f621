"""Bars: the first metric of the report, setting by setting on every split, with intervals and every seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from workbench.evaluation.metrics import metrics
from workbench.paper.figures.data import FigureData
from workbench.paper.layout import TableData
from workbench.paper.style import DARK, PALETTE, new_figure

LOWEST_LABEL = 30.0
"""A bar under this, in per cent, has its value above it."""


def data(table: TableData) -> FigureData:
    """One bar per setting and split: value, interval, and the value of each seed, as fractions."""
    block = table.blocks[0]
    rows = [row for row in block.rows if row.kind == "value" and any(cell.value is not None for cell in row.cells)]
    bars = [
        {
            "setting": row.name,
            "split": split,
            "value": cell.value,
            "low": cell.low,
            "high": cell.high,
            "seeds": list(cell.seeds),
            "seed_values": list(cell.seed_values),
            "runs": list(cell.runs),
        }
        for row in rows
        for split, cell in zip(block.columns, row.cells, strict=True)
        if cell.value is not None
    ]
    return FigureData(
        {
            "metric": block.metric,
            "title": table.title,
            "splits": list(block.columns),
            "settings": [row.name for row in rows],
            "n": {row.name: row.n for row in rows},
            "bars": bars,
            "incomplete": [str(run) for run in table.incomplete],
        }
    )


def draw(figure_data: FigureData) -> Figure:
    """The picture."""
    document = figure_data.document
    settings, splits, metric = document["settings"], document["splits"], metrics[document["metric"]]
    bars = {(bar["setting"], bar["split"]): bar for bar in document["bars"]}
    figure = new_figure(2.8)
    axes = figure.add_subplot()
    width = 0.8 / len(settings)
    several = max(document["n"].values()) > 1
    for i, setting in enumerate(settings):
        colour = PALETTE[i % len(PALETTE)]
        present = [place for place, split in enumerate(splits) if (setting, split) in bars]
        here = [bars[setting, splits[place]] for place in present]
        value, low, high = (np.array([100 * bar[name] for bar in here]) for name in ("value", "low", "high"))
        places = np.array(present) + (i - (len(settings) - 1) / 2) * width
        label = f"{setting} (n = {document['n'][setting]})"
        axes.bar(places, value, width * 0.92, color=colour, label=label)
        axes.errorbar(
            places, value, yerr=[value - low, high - value], fmt="none", ecolor="black", elinewidth=0.8, capsize=2
        )
        _label(axes, places, here, "white" if colour in DARK else "black")
        _draw_seeds(axes, places, here, width)
    axes.set_xticks(range(len(splits)), splits)
    axes.set_ylabel(f"{metric.label} (%)")
    axes.set_ylim(0, 100)
    dots = "; dots: single seeds" if several else ""
    over = "seeds and images" if several else "images alone"
    axes.set_title(f"{document['title']}\n95 % intervals over {over}{dots}", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
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
