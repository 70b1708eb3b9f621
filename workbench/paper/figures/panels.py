"""Panels of images: a row per expression, the image and its sentence first, then a panel per column."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from workbench.paper.figures.chosen import Chosen
from workbench.paper.figures.data import FigureData
from workbench.paper.style import WIDTH, new_figure

LINE = 0.15
"""Height of a line of text, in inches."""


def image_arrays(chosen: Chosen) -> dict[str, NDArray[np.uint8]]:
    """`image.I` and `ground_truth.I` of each expression I, at the image's original size."""
    arrays = {f"image.{i}": chosen.dataset.image(e) for i, e in enumerate(chosen.expressions)}
    return arrays | {f"ground_truth.{i}": chosen.dataset.mask(e) for i, e in enumerate(chosen.expressions)}


def panels(figure_data: FigureData, columns: Sequence[str], extra_height: float) -> tuple[Figure, NDArray[Any]]:
    """A figure with the image of each expression in the first column, and the empty panels of the others."""
    sentences = [expression["sentence"] for expression in figure_data.document["expressions"]]
    side = WIDTH / (len(columns) + 1)
    texts = [textwrap.fill(sentence, round(13 * side)) for sentence in sentences]
    lines = sum(text.count("\n") + 1.4 for text in texts) + max(name.count("\n") for name in columns) + 1.4
    figure = new_figure(side * len(texts) + LINE * lines + extra_height, images=True)
    axes = figure.subplots(len(texts), len(columns) + 1, squeeze=False)
    for i, (row, text) in enumerate(zip(axes, texts, strict=True)):
        photo(row[0], figure_data.arrays[f"image.{i}"], figure_data.arrays[f"ground_truth.{i}"])
        row[0].set_xlabel(text, labelpad=2)
    for panel, name in zip(axes[0][1:], columns, strict=True):
        panel.set_title(name)
    return figure, axes


def photo(axes: Axes, image: NDArray[np.uint8], ground_truth: NDArray[np.uint8]) -> None:
    """An image with the referent's outline."""
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    outline(axes, ground_truth)


def outline(axes: Axes, ground_truth: NDArray[np.uint8]) -> None:
    """The outline of a mask, white on black; of an empty one, nothing."""
    if ground_truth.any():
        for width, colour in ((2.2, "black"), (0.9, "white")):
            axes.contour(ground_truth, [0.5], colors=colour, linewidths=width)


def greyed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image in pale greys, on which colours can be told apart."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat((grey * 0.6 + 90).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
