"""Predictions of every setting on a few expressions: right and wrong pixels in two colours, false regions boxed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from workbench.data import masks
from workbench.errors import counted
from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.chosen import choose, key_of
from workbench.paper.figures.data import FigureData, label_of, width_of
from workbench.paper.figures.panels import Band, Foot, Panel, compose, greyed, image_arrays, photo, ratio_of
from workbench.paper.style import ERROR, MARGIN, PREDICTION, SMALL, line_height

WRONG_IOU = 0.5
"""A prediction at or under this IoU has a badge."""
SMALLEST_BOXED = 0.0025
"""Of the image: a false region must have this share of its pixels to be boxed."""
RIM = 0.02
"""Of the image's longer side: what is no farther from the referent is its rim, and is not boxed."""
STRENGTH = 0.8
"""Of a colour over the grey picture."""


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """The shown seed's masks, `prediction.S.I` of setting S and expression I, and the IoU of every seed."""
    chosen = choose(evaluated, results)
    arrays: dict[str, NDArray[Any]] = dict(image_arrays(chosen))
    for s, folder in enumerate(chosen.folders.values()):
        stored = folder.expressions().set_index(["split", "ref_id", "sent_id"])["prediction"]
        for i, expression in enumerate(chosen.expressions):
            counts = masks.checked_counts(stored[key_of(expression)].encode(), expression.height, expression.width)
            arrays[f"prediction.{s}.{i}"] = masks.decode(counts, expression.height, expression.width)
    plain = FigureData({**chosen.document(), "shown_seeds": chosen.seeds}, arrays)
    return FigureData({**plain.document, "caption": caption(plain)}, arrays)


def draw(figure_data: FigureData) -> list[Figure]:
    """The pages."""
    document, arrays = figure_data.document, figure_data.arrays
    settings = list(document["runs"])
    bands = []
    for i, expression in enumerate(document["expressions"]):
        image, truth = arrays[f"image.{i}"], arrays[f"ground_truth.{i}"]
        panels = []
        for s, setting in enumerate(settings):
            ious = expression["iou"][setting]
            panels.append(
                panel(
                    image, truth, arrays[f"prediction.{s}.{i}"], ious[str(document["shown_seeds"][setting])],
                    list(ious.values()), title_of(document, setting),
                )
            )  # fmt: skip
        heading = f"{expression['sentence']}{_place(document, i)}"
        bands.append(Band(heading, panels, _picture(image, truth), ratio_of(image)))
    return compose(bands, foot_of(figure_data, caption(figure_data)), *width_of(document))


def panel(
    image: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    predicted: NDArray[np.uint8],
    iou: float,
    of_seeds: list[float],
    title: str = "",
    text: str = "",
) -> Panel:
    """A prediction as a panel; `text` stands before its IoU."""
    boxes = false_regions(predicted, truth)[0]

    def paint(axes: Axes) -> None:
        photo(axes, painted(image, truth, predicted), truth)
        for left, top, right, bottom in boxes:
            size = (right - left + 1.5, bottom - top + 1.5)
            frame = Rectangle((left - 1.25, top - 1.25), *size, fill=False, edgecolor=ERROR, linestyle=(0, (3, 1.5)))
            frame.set(linewidth=1.1, clip_on=False)
            axes.add_patch(frame)

    label = f"{text}IoU {100 * iou:.0f}{_over_seeds(of_seeds)}"
    return Panel(paint, title, label=label, badge=("W" if boxes else "M") if iou <= WRONG_IOU else "")


def painted(image: NDArray[np.uint8], truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The picture in greys, with the prediction's right pixels in one colour and its wrong ones in another."""
    shown = greyed(image)
    for where, colour in (((predicted > 0) & (truth > 0), PREDICTION), ((predicted > 0) & (truth == 0), ERROR)):
        shown[where] = (1 - STRENGTH) * shown[where] + STRENGTH * np.array(to_rgb(colour))
    return shown


def false_regions(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> tuple[list[tuple[int, int, int, int]], int, int]:
    """Connected regions of wrong pixels.

    Returns:
        the boxes (first and last column and row: left, top, right, bottom) of those that are boxed; how many are not,
        because they are small or a rim of the referent; and how many pixels these have.
    """
    wrong = (predicted > 0) & (truth == 0)
    pieces, count = ndimage.label(wrong, structure=np.ones((3, 3)))
    reach = max(1, round(RIM * max(truth.shape)))
    far = np.full(truth.shape, np.inf) if not truth.any() else ndimage.distance_transform_edt(truth == 0)
    boxes, left_out, pixels = [], 0, 0
    for number in range(1, count + 1):
        piece = pieces == number
        if piece.sum() < SMALLEST_BOXED * piece.size or far[piece].max() <= reach:
            left_out, pixels = left_out + 1, pixels + int(piece.sum())
            continue
        rows, columns = np.flatnonzero(piece.any(axis=1)), np.flatnonzero(piece.any(axis=0))
        boxes.append((int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])))
    return boxes, left_out, pixels


def caption(figure_data: FigureData) -> str:
    """What the picture shows, how it was chosen, and which false regions have no box."""
    document, arrays = figure_data.document, figure_data.arrays
    names = [name for name in arrays if name.startswith("prediction.")]
    regions = [false_regions(arrays[n], arrays[f"ground_truth.{n.rpartition('.')[2]}"]) for n in names]
    return " ".join([_seeds_text(document), boxes_text(regions), f"Expressions: {document['chosen']}."]).strip()


def boxes_text(regions: list[tuple[list[tuple[int, int, int, int]], int, int]]) -> str:
    """Which false regions are boxed, and how many are not."""
    boxed, left_out = sum(len(boxes) for boxes, _, _ in regions), sum(count for _, count, _ in regions)
    text = (
        f"Boxed: false regions of at least {100 * SMALLEST_BOXED:g} % of the image that reach farther from the "
        f"referent than {100 * RIM:g} % of the image's side ({boxed})."
    )
    text += f" IoU of at most {100 * WRONG_IOU:.0f}: W wrong place, M missed."
    if left_out:
        pixels = sum(count for _, _, count in regions)
        text += f" Without a box: {counted(left_out, 'smaller or adjoining region')} ({pixels:,} pixels)."
    return text


def foot_of(figure_data: FigureData, text: str) -> Foot:
    """The key of the colours over the caption."""
    columns, width = width_of(figure_data.document)
    handles = [
        Patch(facecolor=PREDICTION, label="predicted, right"),
        Patch(facecolor=ERROR, label="predicted, wrong"),
        Patch(facecolor="white", edgecolor="black", linewidth=1.2, label="outline of the referent"),
        Line2D([], [], color=ERROR, linestyle=(0, (3, 1.5)), linewidth=1.1, label="false region"),
    ]
    lines = 1 if columns == 2 else 2
    height = lines * (line_height(SMALL) + 0.03)

    def key(figure: Figure, top: float) -> None:
        figure.legend(
            handles=handles, loc="upper left", bbox_to_anchor=(MARGIN / width, 1 - top / figure.get_figheight()),
            ncols=-(-len(handles) // lines), frameon=False, fontsize=SMALL - 0.5, borderpad=0.1, borderaxespad=0,
            handlelength=1.4, columnspacing=1.0, handletextpad=0.5, labelspacing=0.3,
        )  # fmt: skip

    return Foot(text, height, key)


def title_of(document: Mapping[str, Any], setting: str) -> str:
    """A setting's name, with its seed where not all show the same."""
    shown = document["shown_seeds"]
    several = len(set(shown.values())) > 1
    return label_of(document, setting) + (f"\nseed {shown[setting]}" if several else "")


def _seeds_text(document: Mapping[str, Any]) -> str:
    counts = {len(seeds) for seeds in document["seeds"].values()}
    shown = sorted(set(document["shown_seeds"].values()))
    which = f"Masks of seed {shown[0]}" if len(shown) == 1 else "Masks of the seeds above"
    over = "" if counts == {1} else "; in brackets the mean ± standard deviation of the IoU over all seeds"
    return f"{which}{over}{' (' + str(counts.copy().pop()) + ')' if over and len(counts) == 1 else ''}."


def _place(document: Mapping[str, Any], i: int) -> str:
    """What the rule chose an expression for."""
    choice = document.get("choice") or {}
    if "quantiles" not in choice:
        return ""
    value = f"{100 * choice['values'][i]:{'+' if choice['baseline'] else ''}z.1f}".replace("-", "−")
    return f" [{choice['quantiles'][i]:g} %: {value}]"


def _over_seeds(ious: list[float]) -> str:
    # Without spaces, so that a line that is too long breaks before the brackets.
    return "" if len(ious) < 2 else f" ({100 * np.mean(ious):.0f}±{100 * np.std(ious, ddof=1):.0f})"


def _picture(image: NDArray[np.uint8], truth: NDArray[np.uint8]) -> Any:
    return lambda axes: photo(axes, image, truth)
