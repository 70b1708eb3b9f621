"""The figures of a grid: bars from the store alone, predictions from stored masks, attention from stored weights."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from workbench.data import masks
from workbench.evaluation.metrics import METRIC_NAMES
from workbench.files import digest_of
from workbench.grids.loading import Grid
from workbench.paper.style import ENDINGS, ERROR, MAP, PALETTE, WIDTH, new_figure, save, styled
from workbench.paper.tables import make_table
from workbench.results.folders import RunFolder, StoreError
from workbench.results.provenance import code_digest

if TYPE_CHECKING:
    from workbench.data.loading import Expression, ReferringDataset

Picture = Callable[[Grid, Path], list[Path]]
PREDICTION = "#0072B2"
LINE = 0.15
"""Height of a line of text, in inches."""
WRONG_IOU = 0.5
"""A prediction at or under this IoU is boxed as an error."""


@dataclass(frozen=True)
class _Shown:
    """The runs a picture shows (the first seed of each setting) and the expressions it shows them on."""

    folders: dict[str, RunFolder]
    frames: dict[str, pd.DataFrame]
    dataset: ReferringDataset
    expressions: list[Expression]

    def row(self, setting: str, expression: Expression) -> pd.Series[Any]:
        frame = self.frames[setting]
        return frame[(frame["split"] == expression.split) & (frame["sent_id"] == expression.sent_id)].iloc[0]

    def source(self, grid: Grid, results: Path) -> dict[str, Any]:
        return {
            "grid": grid.file.name,
            "made_from": made_from(grid, results),
            "runs": {setting: folder.name for setting, folder in self.folders.items()},
            "chosen": "at random (seed 0), in turn among expressions of attributes, places and relations",
            "expressions": [
                {
                    "image_id": e.image_id,
                    "sent_id": e.sent_id,
                    "sentence": e.sentence,
                    "iou": {setting: round(float(self.row(setting, e)["iou"]), 4) for setting in self.folders},
                }
                for e in self.expressions
            ],
        }


@styled
def bars(grid: Grid, results: Path) -> list[Path]:
    """The first metric of the report, setting by setting on every split, with 95 % intervals."""
    table = make_table(grid, results)
    metric = grid.report.metrics[0]
    cells = table.cells[(table.cells["metric"] == metric) & table.cells["split"].isin(grid.splits)]
    settings = [s for s in grid.settings if s in set(cells["setting"])]
    figure = new_figure(2.8)
    axes = figure.add_subplot()
    width = 0.8 / len(settings)
    for i, setting in enumerate(settings):
        rows = cells[cells["setting"] == setting].set_index("split").loc[list(grid.splits)]
        value, low, high = (100 * rows[name].to_numpy(float) for name in ("value", "low", "high"))
        places = np.arange(len(value)) + (i - (len(settings) - 1) / 2) * width
        drawn = axes.bar(places, value, width * 0.92, color=PALETTE[i % len(PALETTE)], label=setting)
        axes.errorbar(places, value, yerr=[value - low, high - value], fmt="none", ecolor="black", elinewidth=0.8,
                      capsize=2)  # fmt: skip
        axes.bar_label(drawn, [f"{v:.1f}" for v in value], label_type="center", fontsize=7,
                       color="white" if PALETTE[i % len(PALETTE)] == "#0072B2" else "black")  # fmt: skip
    axes.set_xticks(range(len(grid.splits)), grid.splits)
    axes.set_ylabel(f"{METRIC_NAMES[metric]} (%)")
    axes.set_ylim(0, 100)
    axes.set_title(f"{grid.title}\n95 % bootstrap intervals over expressions, drawn by image", loc="left")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    source = {
        "grid": grid.file.name,
        "made_from": made_from(grid, results),
        "metric": metric,
        "bars": json.loads(cells[["setting", "split", "value", "low", "high", "runs"]].to_json(orient="records")),
    }
    return save(figure, results / grid.name, "bars", source)


@styled
def predictions(grid: Grid, results: Path) -> list[Path]:
    """Every setting's prediction on a few expressions; errors in dashed boxes with a letter."""
    shown = _shown(grid, results)
    figure, rows = _panels(shown, list(shown.folders), extra_height=0.35)
    for row, expression in zip(rows, shown.expressions, strict=True):
        image, truth = shown.dataset.image(expression), shown.dataset.mask(expression)
        for axes, setting in zip(row[1:], shown.folders, strict=True):
            found = shown.row(setting, expression)
            predicted = masks.decode(found["prediction"].encode(), expression.height, expression.width)
            _photo(axes, _greyed(image), truth)
            _overlay(axes, predicted)
            axes.set_xlabel(f"IoU {100 * found['iou']:.0f}", labelpad=2)
            if found["iou"] <= WRONG_IOU:
                _box_error(axes, predicted, truth)
    handles = [
        Patch(color=PREDICTION, alpha=0.6, label="prediction"),
        Patch(facecolor="white", edgecolor="black", linewidth=1.2, label="outline of the referent"),
        Line2D([], [], color=ERROR, linestyle="--", label=f"error (IoU ≤ {WRONG_IOU}): W wrong place, M missed"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return save(figure, results / grid.name, "predictions", shown.source(grid, results))


@styled
def attention(grid: Grid, results: Path) -> list[Path]:
    """Where the words look: word→image attention in the mask decoder and in the image encoder, one scale for all."""
    shown = _shown(grid, results)
    maps = {setting: _maps(grid, shown, setting) for setting in shown.folders}
    columns = [(s, part) for part in ("mask decoder", "image encoder") for s in shown.folders if part in maps[s]]
    top = float(np.quantile(np.concatenate([maps[s][part].ravel() for s, part in columns]), 0.995))
    scale = Normalize(0, top, clip=True)
    figure, rows = _panels(shown, [f"{s}\n{part}" for s, part in columns], extra_height=0.95)
    for i, (row, expression) in enumerate(zip(rows, shown.expressions, strict=True)):
        image, truth = shown.dataset.image(expression), shown.dataset.mask(expression)
        for axes, (setting, part) in zip(row[1:], columns, strict=True):
            _photo(axes, _greyed(image), truth)
            mapped = scale(maps[setting][part][i])
            coloured = mpl.colormaps[MAP](mapped)
            coloured[..., 3] = 0.15 + 0.85 * mapped
            limits = axes.axis()
            axes.imshow(coloured, interpolation="nearest", extent=_extent(shown.dataset, expression))
            axes.axis(limits)
            _outline(axes, truth)
    bar = figure.colorbar(ScalarMappable(scale, MAP), ax=rows, location="bottom", shrink=0.6, aspect=40, pad=0.02)
    bar.set_label(
        "Attention of the words to the image, in multiples of uniform attention.\n"
        "Mean over words, heads and layers; one scale for all panels, cut at the 99.5th percentile."
    )
    source = shown.source(grid, results) | {
        "scale": [0.0, round(top, 4)],
        "unit": "multiples of uniform attention over the layer's keys",
        "mean_over": "word pieces but [CLS], [SEP] and padding; heads; all fused layers, or all decoder layers",
        "no_text_in_image_encoder": [s for s in shown.folders if "image encoder" not in maps[s]],
        "note": "in L-DIT a block's word rows are computed for display only: nothing reads them",
    }
    return save(figure, results / grid.name, "attention", source)


def made_from(grid: Grid, results: Path) -> dict[str, Any]:
    """All that a figure of this grid depends on: the code, the grid file, and when each run was finished."""
    finished = {run.id: RunFolder.of(results, run.config, run.seed).record().get("finished") for run in grid.runs()}
    return {"code": code_digest(), "grid_sha256": digest_of(grid.file), "finished": finished}


def current_files(name: str, grid: Grid, results: Path) -> list[Path] | None:
    """The files of a figure, if they were made from what is there now; else None."""
    files = [results / grid.name / f"{name}.{ending}" for ending in ENDINGS]
    if not all(file.is_file() for file in files):
        return None
    try:
        stored = json.loads(files[-1].read_bytes()).get("made_from")
    except (ValueError, AttributeError):
        return None
    return files if stored == made_from(grid, results) else None


figures: dict[str, Picture] = {"bars": bars, "predictions": predictions, "attention": attention}


def _shown(grid: Grid, results: Path) -> _Shown:
    from workbench.data.datasets import open_dataset
    from workbench.data.loading import ReferringDataset

    folders = {}
    for setting, config in grid.settings.items():
        folder = RunFolder.of(results, config, grid.seeds[0])
        if folder.state() == "completed":
            folders[setting] = folder
    if not folders:
        raise StoreError(f"{grid.file}: no completed run yet; train with: workbench submit {grid.file}")
    data = {name: grid.settings[name].data for name in folders}
    other = [n for n, d in data.items() if not d.same_set(data[next(iter(data))])]
    if other:
        raise StoreError(f"{grid.file}: setting {other[0]!r} has other images; a picture needs the same ones for all")
    config = grid.settings[next(iter(folders))]
    split = grid.report.figure_split
    dataset = ReferringDataset(open_dataset(config), split, config.backbone.image_size, config.data)
    frames = {setting: folder.expressions() for setting, folder in folders.items()}
    first = next(iter(frames.values()))
    rows = _chosen(first[first["split"] == split], grid.report.examples)
    if not rows:
        raise StoreError(f"{grid.file}: report.figure_split: no expression of {split!r} was evaluated")
    by_id = {e.sent_id: e for e in dataset.expressions}
    return _Shown(folders, frames, dataset, [by_id[sent_id] for sent_id in rows])


def _chosen(frame: pd.DataFrame, count: int) -> list[int]:
    """Expressions at random, in turn among the kinds, no image twice."""
    shuffled = frame.sample(frac=1.0, random_state=0).drop_duplicates("image_id")
    shuffled = shuffled.assign(turn=shuffled.groupby("kind").cumcount()).sort_values(["turn", "kind"])
    return [int(sent_id) for sent_id in shuffled["sent_id"].head(count)]


def _maps(grid: Grid, shown: _Shown, setting: str) -> dict[str, NDArray[Any]]:
    """For each part that sees text, a map an expression: mean over layers and words, in multiples of uniform."""
    import torch

    from workbench.analysis.trace import LayerAttention, trace
    from workbench.models.text_encoder import load_tokenizer
    from workbench.training.state import load_trained

    config = grid.settings[setting]
    model = load_trained(config, shown.folders[setting])
    tokenizer = load_tokenizer(config.text_encoder, config.machine.checkpoint_root)

    def mean(layers: list[LayerAttention], words: slice) -> NDArray[Any]:
        maps = [(layer.word_to_image[words].mean(dim=0) * layer.keys).numpy() for layer in layers]
        return np.asarray(np.mean(maps, axis=0))

    found: dict[str, list[NDArray[Any]]] = {"mask decoder": [], "image encoder": []}
    for expression in shown.expressions:
        ids, mask = tokenizer([expression.sentence])
        placement = shown.dataset.placement(expression)
        content = torch.tensor([[placement.top, placement.left, placement.height, placement.width]])
        traced = trace(model, model.normalise(shown.dataset.square(expression)[None], content), ids, mask)
        words = slice(1, int(mask.sum()) - 1)
        found["mask decoder"].append(mean(traced.decoder, words))
        if traced.encoder:
            found["image encoder"].append(mean(traced.encoder, words))
    return {part: np.stack(maps) for part, maps in found.items() if maps}


def _extent(dataset: ReferringDataset, expression: Expression) -> tuple[float, float, float, float]:
    """Where the model's whole square lies in pixels of the original image (left, right, bottom, top)."""
    placement = dataset.placement(expression)
    across, down = expression.width / placement.width, expression.height / placement.height
    left, top = -0.5 - placement.left * across, -0.5 - placement.top * down
    return left, left + dataset.side * across, top + dataset.side * down, top


def _greyed(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat((grey * 0.6 + 90).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _panels(shown: _Shown, columns: Sequence[str], extra_height: float) -> tuple[Figure, NDArray[Any]]:
    """A figure with the image of each expression in the first column, and the empty panels of the others."""
    count = len(shown.expressions)
    side = WIDTH / (len(columns) + 1)
    texts = [textwrap.fill(expression.sentence, round(13 * side)) for expression in shown.expressions]
    lines = sum(text.count("\n") + 1.4 for text in texts) + max(name.count("\n") for name in columns) + 1.4
    figure = new_figure(side * count + LINE * lines + extra_height, images=True)
    panels = figure.subplots(count, len(columns) + 1, squeeze=False)
    for row, expression, text in zip(panels, shown.expressions, texts, strict=True):
        _photo(row[0], shown.dataset.image(expression), shown.dataset.mask(expression))
        row[0].set_xlabel(text, labelpad=2)
    for axes, name in zip(panels[0][1:], columns, strict=True):
        axes.set_title(name)
    return figure, panels


def _photo(axes: Axes, image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    _outline(axes, truth)


def _outline(axes: Axes, truth: NDArray[np.uint8]) -> None:
    for width, colour in ((2.2, "black"), (0.9, "white")):
        axes.contour(truth, [0.5], colors=colour, linewidths=width)


def _overlay(axes: Axes, mask: NDArray[np.uint8]) -> None:
    layer = np.zeros((*mask.shape, 4))
    layer[mask > 0] = to_rgba(PREDICTION, 0.6)
    axes.imshow(layer, interpolation="nearest")


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy import ndimage

    pieces, _ = ndimage.label(mask)
    return np.asarray(pieces == np.argmax(np.bincount(pieces[mask])))


def _box_error(axes: Axes, predicted: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
    wrong = (predicted > 0) & (truth == 0)
    letter, region = ("W", _largest_piece(wrong)) if wrong.any() else ("M", truth > 0)
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    corner = (columns[0] - 1.5, rows[0] - 1.5)
    size = (columns[-1] - columns[0] + 3, rows[-1] - rows[0] + 3)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=ERROR, linestyle="--", linewidth=1.4))
    axes.text(0.97, 0.97, letter, transform=axes.transAxes, color="white", fontweight="bold", ha="right", va="top",
              bbox={"facecolor": ERROR, "edgecolor": "none", "pad": 1.5})  # fmt: skip
