"""Which blocks of the image encoder read words: the settings' choices as a picture, and what they are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workbench.config import RunConfig
from workbench.evaluation.metrics import metrics, summarise
from workbench.grids import Grid
from workbench.grids.evaluated import Evaluated
from workbench.paper.style import PALETTE, new_figure, styled
from workbench.results.folders import StoreError

FUSED, PLAIN = "#0072B2", "#dddddd"


def fused_layers(config: RunConfig) -> tuple[int, ...]:
    """Indices of the blocks that read words; none for a variant without words in the image encoder."""
    from workbench.models.build import check_config

    return tuple(check_config(config).fusion.layers)


def _depth(config: RunConfig) -> int:
    """How many blocks the image encoder has."""
    import torch

    from workbench.models.backbones import backbones

    with torch.device("meta"):
        widths: Sequence[int] = backbones[config.backbone.name].build().image_encoder.widths
    return len(widths)


def rule_of(config: RunConfig) -> str:
    """How `fusion.layers` chooses them: all, first, last, every or listed."""
    layers = config.fusion.layers
    if isinstance(layers, str):
        return layers
    return next(iter(layers)) if isinstance(layers, dict) else "listed"


@styled
def draw_layers(grid: Grid) -> Figure:
    """A row per setting, a square per block, coloured where it reads words; at the right what that adds."""
    from workbench.models.build import check_config

    models = {name: check_config(config) for name, config in grid.settings.items()}
    depths = [_depth(config) for config in grid.settings.values()]
    depth = max(depths)
    cells = np.full((len(models), depth), np.nan)
    for row, model in enumerate(models.values()):
        cells[row, : depths[row]] = 0
        cells[row, list(model.fusion.layers)] = 1
    figure = new_figure(0.24 * len(models) + 0.8)
    axes = figure.subplots()
    for (row, column), cell in np.ndenumerate(cells):
        if not np.isnan(cell):
            axes.bar(column, 0.8, 0.8, row - 0.4, color=FUSED if cell else PLAIN, linewidth=0)
    for row, model in enumerate(models.values()):
        added = sum(parameter.numel() for parameter in model.fusion.parameters())
        axes.text(depth - 0.3, row, f"+{added:,} weights" if added else "no weights added", va="center")
    axes.set(
        yticks=range(len(models)), yticklabels=list(models), xticks=range(depth), xlim=(-0.6, 1.35 * depth + 1),
        ylim=(len(models) - 0.4, -0.6), xlabel="block of the image encoder; blue: it reads words",
    )  # fmt: skip
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@styled
def draw_scores(stored: Evaluated) -> Figure:
    """The first metric over the number of fused blocks, a panel per split: a dot per run, a line through the means.

    Raises:
        StoreError: the completed settings all fuse the same number of blocks.
    """
    grid, metric = stored.grid, stored.grid.report.metrics[0]
    frame = _scores(stored, metric)
    if frame["blocks"].nunique() < 2:
        raise StoreError(
            f"the completed settings of {grid.file} do not differ in the number of fused blocks; a grid whose do is "
            "ablations/layer_subsets.yaml"
        )
    figure = new_figure(2.4)
    panels = figure.subplots(1, len(grid.splits), sharey=True, squeeze=False)[0]
    for axes, split in zip(panels, grid.splits, strict=True):
        _panel(axes, frame[frame["split"] == split])
        axes.set(title=split, xlabel="blocks that read words")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel(f"{metrics[metric].label} (%)")
    keys = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
    figure.legend(keys.values(), keys, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _scores(stored: Evaluated, metric: str) -> pd.DataFrame:
    """A row per run and split: setting, rule, blocks, and the metric in per cent."""
    rows = []
    for name, config in stored.grid.settings.items():
        frame = stored.expressions.get(name)
        if frame is None:
            continue
        blocks = len(fused_layers(config))
        kind = f"{config.fusion.variant}, {rule_of(config)}" if blocks else config.fusion.variant
        for (split, _), part in frame.groupby(["split", "run"], sort=False):
            score = 100 * summarise(part, (metric,)).get(metric, np.nan)
            rows.append({"kind": kind, "blocks": blocks, "split": split, "score": score})
    return pd.DataFrame(rows)


def _panel(axes: Axes, frame: pd.DataFrame) -> None:
    for number, kind in enumerate(dict.fromkeys(frame["kind"])):
        here, colour = frame[frame["kind"] == kind], PALETTE[number % len(PALETTE)]
        means = here.groupby("blocks")["score"].mean()
        axes.plot(means.index, means.to_numpy(), "-", color=colour, linewidth=1, label=kind)
        axes.plot(here["blocks"], here["score"], "o", color=colour, markersize=3.5)
