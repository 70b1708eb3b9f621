"""Which blocks of the image encoder read words, setting by setting; what that is worth is the figure `subsets`."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from workbench.config import RunConfig
from workbench.grids import Grid
from workbench.paper.style import new_figure, styled

FUSED, PLAIN = "#0072B2", "#dddddd"


def fused_layers(config: RunConfig) -> tuple[int, ...]:
    """Indices of the blocks that read words; none for a variant without words in the image encoder."""
    from workbench.models.build import check_config

    return tuple(check_config(config).fusion.layers)


@styled
def draw_layers(grid: Grid) -> Figure:
    """A row per setting, a square per block, coloured where it reads words; at the right what that adds."""
    from workbench.models.build import check_config

    models = {name: check_config(config) for name, config in grid.settings.items()}
    depths = [model.image_encoder.depth for model in models.values()]
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
