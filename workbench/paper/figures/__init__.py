"""The figures of a grid. Each is two functions: `data`, from stored results to a document and arrays, and `draw`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from workbench.grids.evaluated import Evaluated
from workbench.paper.figures import (
    attention,
    bars,
    budget,
    by,
    curves,
    failures,
    interventions,
    layers,
    pipeline,
    predictions,
    schemes,
    subsets,
)
from workbench.paper.figures.data import FigureData


def _none(evaluated: Evaluated, results: Path) -> str | None:
    return None


def _nothing(evaluated: Evaluated, results: Path) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Drawing:
    """One kind of figure.

    Attributes:
        data: from a grid's evaluated runs and the results folder to the figure's data.
        draw: from the data to the picture's pages.
        needs_runs: whether the run folders are read, so that a kept summary is not enough.
        needs_results: whether it shows results; else it shows the grid's settings, before any of them has run.
        obstacle: why a grid has no such figure, or None.
        kept: digests of what it reads besides the runs' results, so that it is drawn again when that changes.
    """

    data: Callable[[Evaluated, Path], FigureData]
    draw: Callable[[FigureData], list[Figure]]
    needs_runs: bool
    obstacle: Callable[[Evaluated, Path], str | None] = _none
    kept: Callable[[Evaluated, Path], Mapping[str, str]] = _nothing
    needs_results: bool = True


figures: dict[str, Drawing] = {
    "schemes": Drawing(schemes.data, schemes.draw, needs_runs=False, needs_results=False),
    "pipeline": Drawing(pipeline.data, pipeline.draw, needs_runs=False, needs_results=False),
    "bars": Drawing(bars.data, bars.draw, needs_runs=False),
    "by": Drawing(by.data, by.draw, needs_runs=False, obstacle=by.obstacle),
    "subsets": Drawing(subsets.data, subsets.draw, needs_runs=False, obstacle=subsets.obstacle),
    "budget": Drawing(budget.data, budget.draw, needs_runs=False, obstacle=budget.obstacle),
    "curves": Drawing(curves.data, curves.draw, needs_runs=True),
    "predictions": Drawing(predictions.data, predictions.draw, needs_runs=True),
    "failures": Drawing(failures.data, failures.draw, needs_runs=True),
    "attention": Drawing(attention.data, attention.draw, needs_runs=True),
    "layers": Drawing(layers.data, layers.draw, needs_runs=True, obstacle=layers.obstacle, kept=layers.kept_files),
    "interventions": Drawing(
        interventions.data,
        interventions.draw,
        needs_runs=True,
        obstacle=interventions.obstacle,
        kept=interventions.kept_files,
    ),
}
