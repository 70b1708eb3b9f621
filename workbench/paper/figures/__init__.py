"""The figures of a grid. Each is two functions: `data`, from stored results to a document and arrays, and `draw`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from workbench.grids.evaluated import Evaluated
from workbench.paper.figures import attention, bars, predictions
from workbench.paper.figures.data import FigureData
from workbench.paper.layout import lay_out


@dataclass(frozen=True)
class Drawing:
    """One kind of figure.

    Attributes:
        data: from a grid's evaluated runs and the results folder to the figure's data.
        draw: from the data to the picture.
        needs_runs: whether the run folders and the data set are read, so that a kept summary is not enough.
    """

    data: Callable[[Evaluated, Path], FigureData]
    draw: Callable[[FigureData], Figure]
    needs_runs: bool


def _bars_data(evaluated: Evaluated, results: Path) -> FigureData:
    return bars.data(lay_out(evaluated))


figures: dict[str, Drawing] = {
    "bars": Drawing(_bars_data, bars.draw, needs_runs=False),
    "predictions": Drawing(predictions.data, predictions.draw, needs_runs=True),
    "attention": Drawing(attention.data, attention.draw, needs_runs=True),
}
