"""Training curves: the loss and the validated metric over steps, mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from workbench.evaluation.metrics import metrics
from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.bars import key_columns
from workbench.paper.figures.data import FigureData, label_of, width_of
from workbench.paper.style import PALETTE, SMALL, wrapped
from workbench.results.folders import RunFolder
from workbench.results.frames import log_frame

SMOOTHED = 5
"""Readings of the loss whose mean is shown."""
TOGETHER = 6
"""So many settings share a panel; of more, each has its own, with the baseline in grey."""


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """By setting: steps, and the mean and standard deviation over seeds of loss and validated metric."""
    grid = evaluated.grid
    settings = [name for name in grid.settings if name in evaluated.expressions]
    curves = {}
    metric = None
    for name in settings:
        folders = [RunFolder(results, evaluated.run_of(name, seed)) for seed in evaluated.seeds(name)]
        validated = log_frame(folders, "validate")
        if len(validated):
            metric = str(validated["metric"].iloc[0])
        curves[name] = {"loss": _loss(log_frame(folders)), "validated": _over_seeds(validated, "value")}
    return FigureData(
        {
            "title": grid.title,
            "settings": settings,
            "labels": {name: grid.label(name) for name in settings},
            "baseline": grid.baseline,
            "n": {name: len(evaluated.seeds(name)) for name in settings},
            "metric": metric,
            "smoothed_over": SMOOTHED,
            "curves": curves,
        }
    )


def _loss(frame: pd.DataFrame) -> dict[str, list[float]]:
    if frame.empty:
        return _over_seeds(frame, "loss")
    means = frame.groupby("run")["loss"].transform(lambda values: values.rolling(SMOOTHED, min_periods=1).mean())
    return _over_seeds(frame.assign(loss=means), "loss")


def _over_seeds(frame: pd.DataFrame, column: str) -> dict[str, list[float]]:
    """Of the steps that all runs logged."""
    if frame.empty:
        return {"steps": [], "mean": [], "deviation": []}
    # A run that went on from a checkpoint has logged some steps twice; the later reading is of the weights it has.
    values = frame.drop_duplicates(["run", "step"], keep="last").pivot_table(index="step", columns="run", values=column)
    values = values.dropna()
    deviation = values.std(axis=1, ddof=1).fillna(0.0)
    return {
        "steps": [int(step) for step in values.index],
        "mean": [round(float(value), 6) for value in values.mean(axis=1)],
        "deviation": [round(float(value), 6) for value in deviation],
    }


def draw(figure_data: FigureData) -> list[Figure]:
    """The picture."""
    document = figure_data.document
    settings = document["settings"]
    parts = ["loss"] + ["validated"] * any(document["curves"][name]["validated"]["steps"] for name in settings)
    columns, width = width_of(document)
    if len(settings) <= TOGETHER:
        return [_together(document, parts, width)]
    return _apart(document, parts, columns, width)


def _caption(document: Mapping[str, Any], parts: Sequence[str]) -> str:
    counts = sorted(set(document["n"].values()))
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    said = [f"loss: mean of the last {document['smoothed_over']} readings"] * ("loss" in parts)
    said += [f"band: ± standard deviation over seeds ({n})"] * (counts[-1] > 1)
    text = "; ".join(said)
    return f"{document['title']}." + (f" {text[0].upper()}{text[1:]}." if text else "")


def _names(document: Mapping[str, Any], part: str) -> str:
    return "training loss" if part == "loss" else f"validated {metrics[document['metric']].label} (%)"


def _line(axes: Axes, curve: Mapping[str, Sequence[float]], part: str, colour: str, label: str, dashes: Any) -> None:
    scale = 1 if part == "loss" else 100
    mean, deviation = (scale * np.array(curve[name], dtype=float) for name in ("mean", "deviation"))
    marker = "o" if len(mean) < 12 else ""
    axes.plot(
        curve["steps"], mean, color=colour, label=label, linewidth=1.2, marker=marker, markersize=3, dashes=dashes
    )
    axes.fill_between(curve["steps"], mean - deviation, mean + deviation, color=colour, alpha=0.18, linewidth=0)


DASHES = ((), (4, 1.5), (1.2, 1.2), (6, 1.5, 1.2, 1.5), (3, 1), (8, 2))
"""Lines differ by these as well as by colour."""


def _together(document: Mapping[str, Any], parts: Sequence[str], width: float) -> Figure:
    narrow = width < 5
    figure = Figure(figsize=(width, 2.0 * len(parts) + 0.8 if narrow else 2.8), layout="constrained")
    axes = figure.subplots(*((len(parts), 1) if narrow else (1, len(parts))), squeeze=False).ravel()
    for panel, part in zip(axes, parts, strict=True):
        for i, name in enumerate(document["settings"]):
            curve = document["curves"][name][part]
            _line(panel, curve, part, PALETTE[i], label_of(document, name), DASHES[i])
        panel.set(xlabel="step", ylabel=_names(document, part))
        panel.tick_params(labelsize=SMALL)
    handles, labels = axes[0].get_legend_handles_labels()
    texts = [wrapped(label, 0.75 * width, SMALL) for label in labels]
    figure.legend(
        handles, texts, loc="outside upper left", ncols=key_columns(texts, width - 0.3),
        frameon=False, fontsize=SMALL, handlelength=3,
    )  # fmt: skip
    figure.supxlabel(wrapped(_caption(document, parts), width - 0.1, SMALL), x=0.01, ha="left", fontsize=SMALL)
    return figure


def _apart(document: Mapping[str, Any], parts: Sequence[str], columns: int, width: float) -> list[Figure]:
    """A page per quantity, a panel per setting."""
    settings, baseline = document["settings"], str(document.get("baseline"))
    across = 5 if columns == 2 else 2
    grey = f" Grey: {label_of(document, baseline)}." if baseline in settings else ""
    pages = []
    for part in parts:
        caption = _caption(document, [part]) + grey
        down = -(-len(settings) // across)
        figure = Figure(figsize=(width, 1.35 * down + 0.6), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
        for panel, name in zip(axes, settings, strict=False):
            if baseline in settings:
                _line(panel, document["curves"][baseline][part], part, "#999999", "", DASHES[1])
            if name != baseline:
                _line(panel, document["curves"][name][part], part, PALETTE[2], "", DASHES[0])
            panel.set_title(wrapped(label_of(document, name), (width - 0.9) / across, SMALL), fontsize=SMALL)
            panel.tick_params(labelsize=SMALL - 0.5)
            panel.locator_params(nbins=3)
            panel.locator_params(axis="x", integer=True)
        for panel in axes[len(settings) :]:
            panel.set_axis_off()
        for panel in axes[max(0, len(settings) - across) : len(settings)]:
            panel.tick_params(labelbottom=True)  # also where the panel below is empty
        figure.supylabel(_names(document, part), fontsize=SMALL)
        figure.supxlabel(wrapped(f"Over steps. {caption}", width - 0.1, SMALL), x=0.01, ha="left", fontsize=SMALL)
        pages.append(figure)
    return pages
