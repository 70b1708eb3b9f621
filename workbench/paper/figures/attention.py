"""Where the words look: word→image attention in the mask decoder and in the image encoder, one scale for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from workbench.analysis.maps import MEAN_OVER, PARTS, UNIT, attention_maps
from workbench.config import RunConfig
from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.chosen import choose
from workbench.paper.figures.colours import brightness_of, coloured, table
from workbench.paper.figures.data import FigureData, label_of, width_of
from workbench.paper.figures.panels import Band, Foot, Panel, compose, image_arrays, photo, ratio_of
from workbench.paper.style import SMALL

if TYPE_CHECKING:
    from workbench.data.transforms import Placement

BAR = 0.16
"""Inches: the height of the scale."""
KEY_HEIGHT = BAR + 0.27


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
        "extents": [
            extent_of(chosen.dataset.placement(e), e.height, e.width, chosen.dataset.side) for e in chosen.expressions
        ],
        "shown_seeds": chosen.seeds,
        "scale": [0.0, round(float(np.quantile(everything, 0.995)), 4)],
        "unit": UNIT,
        "mean_over": MEAN_OVER,
        "no_text_in_image_encoder": [setting for setting in maps if "image encoder" not in maps[setting]],
        "unread": [name for name in maps if "image encoder" in maps[name] and not _is_read(grid.settings[name])],
        "note": "in L-DIT a block's word rows are computed for display only: nothing reads them",
    }
    return FigureData(document, arrays)


def draw(figure_data: FigureData) -> list[Figure]:
    """The pages."""
    document, arrays = figure_data.document, figure_data.arrays
    bands = []
    for i, (expression, extent) in enumerate(zip(document["expressions"], document["extents"], strict=True)):
        image, truth = arrays[f"image.{i}"], arrays[f"ground_truth.{i}"]
        panels = [
            Panel(
                over_picture(image, truth, arrays[f"map.{c}.{i}"], extent, document["scale"]),
                f"{_title(document, setting)}\n{part}",
                part,
            )
            for c, (setting, part) in enumerate(document["columns"])
        ]
        bands.append(Band(expression["sentence"], panels, _picture(image, truth), ratio_of(image)))
    columns, width = width_of(document)
    return compose(bands, Foot(caption(document), KEY_HEIGHT, scale_key(document["scale"], width)), columns, width)


def caption(document: Mapping[str, Any]) -> str:
    """What the map is, and how the expressions were chosen."""
    without = [label_of(document, setting) for setting in document["no_text_in_image_encoder"]]
    shown = sorted(set(document["shown_seeds"].values()))
    unread = [label_of(document, setting) for setting in document.get("unread", ())]
    fused = {setting for setting, part in document["columns"] if part == "image encoder"}
    whose = "all settings" if len(unread) == len(fused) > 1 else ", ".join(unread)
    parts = [
        "Attention of the words to the image, in multiples of uniform attention: mean over words, heads and layers; "
        "one scale for all panels, cut at the 99.5th percentile. From the scale's bottom to its top: from dark to "
        "bright parts of the picture; dotted: uniform attention.",
        f"Outlined: the referent. Seed {', '.join(map(str, shown))}.",
        f"{', '.join(without)}: no text in the image encoder." if without else "",
        f"In the image encoder of {whose} the image reads the words, and the words do not read the image: the panels "
        "show what they would read."
        if unread else "",
        f"Expressions: {document['chosen']}.",
    ]  # fmt: skip
    return " ".join(part for part in parts if part)


def _is_read(config: RunConfig) -> bool:
    """Whether words go on from one block of the image encoder to the next."""
    from workbench.models.fusion import variants

    return variants[config.fusion.variant].evolves


def _title(document: Mapping[str, Any], setting: str) -> str:
    several = len(set(document["shown_seeds"].values())) > 1
    return label_of(document, setting) + (f"\nseed {document['shown_seeds'][setting]}" if several else "")


def _picture(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Callable[[Axes], None]:
    return lambda axes: photo(axes, image, truth)


def over_picture(
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    attention: NDArray[np.float32],
    extent: Sequence[float],
    scale: Sequence[float],
) -> Callable[[Axes], None]:
    """The map over the dimmed picture, each pixel of the picture in the cell of the map that it lies in."""
    left, right, bottom, top = extent
    height, width = image.shape[:2]
    row = (np.arange(height) - top) / (bottom - top) * attention.shape[0]
    column = (np.arange(width) - left) / (right - left) * attention.shape[1]
    rows, columns = (
        np.clip(place.astype(int), 0, size - 1)
        for place, size in ((row, attention.shape[0]), (column, attention.shape[1]))
    )
    values = (attention[np.ix_(rows, columns)] - scale[0]) / (scale[1] - scale[0])
    pixels = coloured(values, brightness_of(image))
    return lambda axes: photo(axes, pixels, truth)


def scale_key(scale: Sequence[float], width: float) -> Callable[[Figure, float], None]:
    """Draws the whole table of colours, on a figure of so many inches: attention across, brightness upwards."""

    def key(figure: Figure, top: float) -> None:
        height = figure.get_figheight()
        span = min(4.0, width - 0.5)
        box = ((width - span) / 2 / width, 1 - (top + 0.05 + BAR) / height, span / width, BAR / height)
        axes = figure.add_axes(box)
        axes.imshow(table().transpose(1, 0, 2), origin="lower", aspect="auto", extent=(scale[0], scale[1], 0, 1))
        axes.set_yticks([])
        axes.tick_params(labelsize=SMALL, length=2, pad=2)
        axes.spines[:].set(visible=True, linewidth=0.6)
        if scale[0] < 1 < scale[1]:
            axes.axvline(1, color="white", linewidth=0.8, linestyle=":")

    return key


def extent_of(placement: Placement, height: int, width: int, side: int) -> list[float]:
    """Where the model's whole square lies in pixels of the original image (left, right, bottom, top)."""
    across, down = width / placement.width, height / placement.height
    left, top = -0.5 - placement.left * across, -0.5 - placement.top * down
    return [left, left + side * across, top + side * down, top]
