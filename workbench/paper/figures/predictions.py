"""Predictions of every setting on a few expressions; errors in dashed boxes with a letter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from workbench.data import masks
from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.chosen import choose, key_of
from workbench.paper.figures.data import FigureData
from workbench.paper.figures.panels import greyed, image_arrays, panels, photo
from workbench.paper.style import ERROR, PREDICTION

WRONG_IOU = 0.5
"""A prediction at or under this IoU is boxed as an error."""


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """The shown seed's masks, `prediction.S.I` of setting S and expression I, and the IoU of every seed."""
    chosen = choose(evaluated, results)
    arrays: dict[str, NDArray[Any]] = dict(image_arrays(chosen))
    for s, folder in enumerate(chosen.folders.values()):
        stored = folder.expressions().set_index(["split", "ref_id", "sent_id"])["prediction"]
        for i, expression in enumerate(chosen.expressions):
            counts = masks.checked_counts(stored[key_of(expression)].encode(), expression.height, expression.width)
            arrays[f"prediction.{s}.{i}"] = masks.decode(counts, expression.height, expression.width)
    return FigureData({**chosen.document(), "shown_seeds": chosen.seeds}, arrays)


def draw(figure_data: FigureData) -> Figure:
    """The picture."""
    document, arrays = figure_data.document, figure_data.arrays
    settings = list(document["runs"])
    several = any(len(document["seeds"][setting]) > 1 for setting in settings)
    titles = [f"{s}\nseed {document['shown_seeds'][s]} of n = {len(document['seeds'][s])}" if several else s
              for s in settings]  # fmt: skip
    figure, rows = panels(figure_data, titles, extra_height=0.35)
    for i, (row, expression) in enumerate(zip(rows, document["expressions"], strict=True)):
        image, ground_truth = arrays[f"image.{i}"], arrays[f"ground_truth.{i}"]
        for s, (axes, setting) in enumerate(zip(row[1:], settings, strict=True)):
            predicted = arrays[f"prediction.{s}.{i}"]
            photo(axes, greyed(image), ground_truth)
            _overlay(axes, predicted)
            ious = expression["iou"][setting]
            iou = ious[str(document["shown_seeds"][setting])]
            axes.set_xlabel(f"IoU {100 * iou:.0f}{_over_seeds(list(ious.values()))}", labelpad=2)
            if iou <= WRONG_IOU:
                _box_error(axes, predicted, ground_truth)
    handles = [
        Patch(color=PREDICTION, alpha=0.6, label="prediction"),
        Patch(facecolor="white", edgecolor="black", linewidth=1.2, label="outline of the referent"),
        Line2D([], [], color=ERROR, linestyle="--", label=f"error (IoU ≤ {WRONG_IOU}): W wrong place, M missed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


def _over_seeds(ious: list[float]) -> str:
    if len(ious) < 2:
        return ""
    return f" (all seeds {100 * np.mean(ious):.0f} ± {100 * np.std(ious, ddof=1):.0f})"


def _overlay(axes: Axes, mask: NDArray[np.uint8]) -> None:
    layer = np.zeros((*mask.shape, 4))
    layer[mask > 0] = to_rgba(PREDICTION, 0.6)
    axes.imshow(layer, interpolation="nearest")


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    pieces, _ = ndimage.label(mask)
    return np.asarray(pieces == np.argmax(np.bincount(pieces[mask])))


def _box_error(axes: Axes, predicted: NDArray[np.uint8], ground_truth: NDArray[np.uint8]) -> None:
    wrong = (predicted > 0) & (ground_truth == 0)
    letter, region = ("W", _largest_piece(wrong)) if wrong.any() else ("M", ground_truth > 0)
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    corner = (columns[0] - 1.5, rows[0] - 1.5)
    size = (columns[-1] - columns[0] + 3, rows[-1] - rows[0] + 3)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=ERROR, linestyle="--", linewidth=1.4))
    axes.text(0.97, 0.97, letter, transform=axes.transAxes, color="white", fontweight="bold", ha="right", va="top",
              bbox={"facecolor": ERROR, "edgecolor": "none", "pad": 1.5})  # fmt: skip
