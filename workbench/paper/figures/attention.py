"""Where the words look: word→image attention in the mask decoder and in the image encoder, one scale for all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from workbench.analysis.maps import MEAN_OVER, PARTS, UNIT, attention_maps
from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.chosen import choose
from workbench.paper.figures.data import FigureData
from workbench.paper.figures.panels import greyed, image_arrays, outline, panels, photo
from workbench.paper.style import MAP

if TYPE_CHECKING:
    from workbench.data.loading import Expression, ReferringDataset


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """The maps that `workbench.analysis.maps` keeps beside the shown runs, `map.C.I` of column C and expression I."""
    grid, chosen = evaluated.grid, choose(evaluated, results)
    maps = {
        setting: attention_maps(grid.settings[setting], folder, chosen.dataset, chosen.expressions).maps
        for setting, folder in chosen.folders.items()
    }
    columns = [(setting, part) for part in PARTS for setting in maps if part in maps[setting]]
    arrays: dict[str, NDArray[Any]] = dict(image_arrays(chosen))
    for c, (setting, part) in enumerate(columns):
        arrays |= {f"map.{c}.{i}": one for i, one in enumerate(maps[setting][part])}
    everything = np.concatenate([maps[setting][part].ravel() for setting, part in columns])
    document = chosen.document() | {
        "columns": [list(column) for column in columns],
        "extents": [_extent(chosen.dataset, expression) for expression in chosen.expressions],
        "shown_seeds": chosen.seeds,
        "scale": [0.0, round(float(np.quantile(everything, 0.995)), 4)],
        "unit": UNIT,
        "mean_over": MEAN_OVER,
        "no_text_in_image_encoder": [setting for setting in maps if "image encoder" not in maps[setting]],
        "note": "in L-DIT a block's word rows are computed for display only: nothing reads them",
    }
    return FigureData(document, arrays)


def draw(figure_data: FigureData) -> Figure:
    """The picture."""
    document, arrays = figure_data.document, figure_data.arrays
    scale = Normalize(vmin=document["scale"][0], vmax=document["scale"][1], clip=True)
    several = any(len(seeds) > 1 for seeds in document["seeds"].values())
    titles = [
        f"{setting}\n{part}" + (f"\nseed {document['shown_seeds'][setting]}" if several else "")
        for setting, part in document["columns"]
    ]
    figure, rows = panels(figure_data, titles, extra_height=0.95)
    for i, (row, extent) in enumerate(zip(rows, document["extents"], strict=True)):
        image, ground_truth = arrays[f"image.{i}"], arrays[f"ground_truth.{i}"]
        for c, axes in enumerate(row[1:]):
            photo(axes, greyed(image), ground_truth)
            mapped = scale(arrays[f"map.{c}.{i}"])
            coloured = mpl.colormaps[MAP](mapped)
            coloured[..., 3] = 0.15 + 0.85 * mapped
            limits = axes.axis()
            axes.imshow(coloured, interpolation="nearest", extent=tuple(extent))
            axes.axis(limits)
            outline(axes, ground_truth)
    bar = figure.colorbar(ScalarMappable(scale, MAP), ax=rows, location="bottom", shrink=0.6, aspect=40, pad=0.02)
    bar.set_label(
        "Attention of the words to the image, in multiples of uniform attention.\n"
        "Mean over words, heads and layers; one scale for all panels, cut at the 99.5th percentile."
    )
    return figure


def _extent(dataset: ReferringDataset, expression: Expression) -> list[float]:
    """Where the model's whole square lies in pixels of the original image (left, right, bottom, top)."""
    placement = dataset.placement(expression)
    across, down = expression.width / placement.width, expression.height / placement.height
    left, top = -0.5 - placement.left * across, -0.5 - placement.top * down
    return [left, left + dataset.side * across, top + dataset.side * down, top]
