"""Where in the network the image looks at words: heatmaps of layers × heads, setting beside setting on one scale.

It shows what `workbench attention` wrote beside the runs, and measures nothing itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.data import FigureData, label_of, width_of
from workbench.paper.style import PAGE, SMALL, line_height, text_width, wrapped
from workbench.results.folders import RunFolder, StoreError
from workbench.validation import DamagedFile

NOTHING = "#DDDDDD"
"""Where a setting has no such layer or head, or its layer reads no words."""
ACROSS = {1: 2, 2: 4}
"""Panels in a line, by the figure's columns."""
ROW, LEAST = 0.12, 0.75
"""Inches of a layer, and of a whole heatmap at least."""
BAR = 0.42
"""Inches for the scale and its numbers."""


@dataclass(frozen=True)
class Statistic:
    """A number of every layer and head.

    Attributes:
        part: the end of the names of its points.
        text: what it is, for the caption.
        centre: what says nothing, in the middle of a diverging scale; None: the scale begins at 0.
    """

    name: str
    part: str
    label: str
    text: str
    centre: float | None = None


STATISTICS = (
    Statistic(
        "auc", ".image_to_word", "AUC",
        "the chance that a token of the referent attends more to the expression's words than a token outside", 0.5,
    ),
    Statistic("mass_text", ".image_to_word", "mass on text", "the share of the image tokens' attention on all text"),
    Statistic(
        "entropy", ".attn", "entropy",
        "the entropy of the image tokens' attention, as a fraction of the largest possible",
    ),
    Statistic("distance", ".attn", "distance (tokens)", "the mean distance between image tokens, by their attention"),
)  # fmt: skip


def file_of(folder: RunFolder, split: str) -> Path:
    """Where `workbench attention` writes a run's statistics."""
    return folder.artefact("attention", split, ".csv")


def sources(evaluated: Evaluated, results: Path) -> dict[tuple[str, int], Path]:
    """The files to show, by setting and seed: of the report's split, and of the seed that is named."""
    return _measured(evaluated, results, evaluated.grid.report.figure_split)


def _measured(evaluated: Evaluated, results: Path, split: str) -> dict[tuple[str, int], Path]:
    grid, wanted = evaluated.grid, evaluated.grid.report.seed
    files = {
        (setting, seed): file_of(RunFolder(results, evaluated.run_of(setting, seed)), split)
        for setting in grid.settings
        for seed in evaluated.seeds(setting)
        if wanted in (None, seed)
    }
    return {key: file for key, file in files.items() if file.is_file()}


def kept_files(evaluated: Evaluated, results: Path) -> dict[str, str]:
    """Digests of the files to show, by run."""
    files = sources(evaluated, results)
    return {evaluated.run_of(*key): hashlib.sha256(file.read_bytes()).hexdigest() for key, file in files.items()}


def obstacle(evaluated: Evaluated, results: Path) -> str | None:
    """Nothing is shown that was not measured."""
    if sources(evaluated, results):
        return None
    grid = evaluated.grid
    runs = (evaluated.run_of(name, seed) for name in grid.settings for seed in evaluated.seeds(name))
    command = f"workbench attention {next(runs, 'RUN')} --split {grid.report.figure_split}"
    others = [split for split in grid.splits if _measured(evaluated, results, split)]
    there = f" (there are some of {', '.join(others)}: --split {others[0]})" if others else ""
    return f"no run has statistics of its attention on {grid.report.figure_split}{there}; write them with: {command}"


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """By statistic and setting a matrix of layers × heads, the mean over the seeds that were measured.

    Raises:
        StoreError: no run was measured.
        DamagedFile: statistics cannot be read.
    """
    files = sources(evaluated, results)
    if not files:
        raise StoreError(str(obstacle(evaluated, results)))
    grid, frames = evaluated.grid, {key: _read(file) for key, file in files.items()}
    settings = [name for name in grid.settings if any(setting == name for setting, _ in frames)]
    shown = [matrices for statistic in STATISTICS if (matrices := _matrices(statistic, settings, frames))]
    return FigureData(
        {
            "title": grid.title,
            "split": grid.report.figure_split,
            "settings": settings,
            "labels": {name: grid.label(name) for name in settings},
            "seeds": {name: [seed for setting, seed in frames if setting == name] for name in settings},
            "not_measured": [name for name in grid.settings if name not in settings],
            "statistics": shown,
        }
    )


def _read(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(file)
        return frame[["point", "head", "statistic", "value", "shuffled: verdict"]]
    except (OSError, ValueError, KeyError) as error:
        raise DamagedFile(file, str(error)[:200], "write it again with `workbench attention`") from None


def _matrices(
    statistic: Statistic, settings: Sequence[str], frames: Mapping[tuple[str, int], pd.DataFrame]
) -> dict[str, Any] | None:
    """One statistic of all settings, its scale and rows; None where no run has it."""
    own = {
        key: frame[(frame["statistic"] == statistic.name) & frame["point"].str.endswith(statistic.part)]
        for key, frame in frames.items()
    }
    points = sorted({point for frame in own.values() for point in frame["point"]}, key=_order)
    if not points:
        return None
    first, heads = min(map(_order, points)), 1 + max(int(f["head"].max()) for f in own.values() if len(f))
    # Every block of the image encoder has its row, whether any setting fuses it or not.
    last = max((layer for part, layer in map(_order, points) if part == 0), default=-1)
    rows = [(0, layer) for layer in range(last + 1)] if first[0] == 0 else []
    rows += [_order(point) for point in points if _order(point)[0] == 1]
    values: dict[str, Any] = {}
    marks: dict[str, Any] = {}
    for setting in settings:
        each = [_matrix(frame, rows, heads) for (name, _), frame in own.items() if name == setting]
        mean, sign = np.mean([one[0] for one in each], axis=0), np.sum([one[1] for one in each], axis=0)
        values[setting] = [[None if np.isnan(cell) else round(float(cell), 6) for cell in row] for row in mean]
        marks[setting] = (np.abs(sign) == len(each)).tolist()
    low, high = _scale(statistic, [cell for matrix in values.values() for row in matrix for cell in row])
    return {
        "name": statistic.name, "label": statistic.label, "text": statistic.text, "centre": statistic.centre,
        "rows": [f"{'' if part == 0 else 'd'}{layer}" for part, layer in rows], "heads": heads,
        "scale": [low, high], "values": values, "separates": marks,
    }  # fmt: skip


def _order(point: str) -> tuple[int, int]:
    """The image encoder's blocks come first, then the mask decoder's layers."""
    number = re.search(r"\[(\d+)\]", point)
    return (0 if point.startswith("encoder") else 1, int(number[1]) if number else 99)


def _matrix(
    frame: pd.DataFrame, rows: Sequence[tuple[int, int]], heads: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values, and whether they are above (1) or below (-1) those of shuffled words; rows×heads."""
    values, signs = np.full((len(rows), heads), np.nan), np.zeros((len(rows), heads), np.int64)
    for point, head, value, verdict in zip(
        frame["point"], frame["head"], frame["value"], frame["shuffled: verdict"].fillna(""), strict=True
    ):
        cell = rows.index(_order(point)), int(head)
        values[cell] = value
        signs[cell] = 1 if verdict.startswith("separates: above") else -int(verdict.startswith("separates: below"))
    return values, signs


def _scale(statistic: Statistic, values: Sequence[float | None]) -> tuple[float, float]:
    known = [value for value in values if value is not None] or [statistic.centre or 0.0]
    if statistic.centre is None:
        return 0.0, max(max(known), 1e-6)
    reach = max(max(abs(value - statistic.centre) for value in known), 0.05)
    return statistic.centre - reach, statistic.centre + reach


def draw(figure_data: FigureData) -> list[Figure]:
    """A page per statistic, or more where there are many settings."""
    document = figure_data.document
    columns, width = width_of(document)
    pages = []
    for statistic in document["statistics"]:
        line = max(LEAST, ROW * len(statistic["rows"])) + 0.45
        most = ACROSS[columns] * max(1, int((PAGE - BAR - 0.9) / line))
        for start in range(0, len(document["settings"]), most):
            part = document["settings"][start : start + most]
            pages.append(_page(document, statistic, part, min(ACROSS[columns], len(part)), line, width))
    return pages


def _page(
    document: Mapping[str, Any], statistic: Mapping[str, Any], settings: Sequence[str], across: int, line: float,
    width: float,
) -> Figure:  # fmt: skip
    down = -(-len(settings) // across)
    text = wrapped(caption(document, statistic, settings), width - 0.1, SMALL)
    titles = [wrapped(label_of(document, name), width / across - 0.35, SMALL) for name in settings]
    height = down * line + BAR + line_height(SMALL) * (text.count("\n") + 2)
    height += sum(
        line_height(SMALL) * max(title.count("\n") for title in titles[row * across : (row + 1) * across])
        for row in range(down)
    )
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for place, axes in enumerate(grid.ravel()):
        if place >= len(settings):
            axes.set_axis_off()
            continue
        _panel(axes, statistic, settings[place])
        axes.set_title(titles[place], fontsize=SMALL)
        if place % across == 0:
            axes.set_ylabel("layer", fontsize=SMALL)
        if place + across >= len(settings):
            axes.set_xlabel("head", fontsize=SMALL)
    bar = figure.colorbar(grid[0, 0].collections[0], ax=grid, location="top", aspect=60, shrink=0.6, pad=0.02)
    bar.set_label(statistic["label"], fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL, length=2, pad=1)
    bar.outline.set_linewidth(0.6)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL)
    return figure


def _panel(axes: Axes, statistic: Mapping[str, Any], setting: str) -> None:
    values = np.array(statistic["values"][setting], dtype=float)
    low, high = statistic["scale"]
    axes.set_facecolor(NOTHING)
    sns.heatmap(
        values, ax=axes, vmin=low, vmax=high, cmap="cividis" if statistic["centre"] is None else "vlag",
        mask=np.isnan(values), cbar=False, linewidths=0.4, linecolor="white",
    )  # fmt: skip
    rows, heads = statistic["rows"], statistic["heads"]
    every, of_rows = _every(heads, axes), max(1, -(-len(rows) // 14))
    axes.set_xticks(np.arange(0, heads, every) + 0.5, [str(head) for head in range(0, heads, every)], rotation=0)
    axes.set_yticks(np.arange(0, len(rows), of_rows) + 0.5, rows[::of_rows], rotation=0)
    axes.tick_params(labelsize=SMALL - 1, length=0, pad=2)
    marked = np.argwhere(np.array(statistic["separates"][setting]))
    if len(marked):
        # A ring stays visible on light and on dark cells.
        axes.scatter(marked[:, 1] + 0.5, marked[:, 0] + 0.5, s=5, c="black", edgecolors="white", linewidths=0.5)


def _every(heads: int, axes: Axes) -> int:
    """Of how many heads one is numbered, so that the numbers stay apart."""
    room = axes.get_position().width * axes.figure.get_figwidth() * 0.8 / heads  # type: ignore[union-attr]
    return max(1, int(np.ceil((text_width(str(heads), SMALL - 1) + 0.03) / room)))


def caption(document: Mapping[str, Any], statistic: Mapping[str, Any], settings: Sequence[str]) -> str:
    """What the cells are, over what, and what a dot means."""
    names = [label_of(document, name) for name in document["not_measured"]]
    counts = {len(document["seeds"][name]) for name in settings}
    n = (
        f"n = {counts.pop()}"
        if len(counts) == 1
        else "n = " + ", ".join(f"{len(document['seeds'][name])} ({label_of(document, name)})" for name in settings)
    )
    empty = any(cell is None for name in settings for row in statistic["values"][name] for cell in row)
    marked = any(any(row) for name in settings for row in statistic["separates"][name])
    parts = [
        f"{document['title']}, {document['split']}: {statistic['text']}; mean over expressions and seeds ({n}).",
        "One scale for all panels.",
        "Layers d: the mask decoder's; the others: the image encoder's." if "d0" in statistic["rows"] else "",
        "Dot: in every seed, the 95 % interval of the difference from words of other images leaves zero out."
        if marked else "",
        "Grey: no such layer, or it reads no words." if empty else "",
        f"Not measured: {', '.join(names)}." if names else "",
    ]  # fmt: skip
    return " ".join(part for part in parts if part)
