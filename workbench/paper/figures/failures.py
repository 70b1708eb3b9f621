"""The worst expressions of every setting: where it fails with all seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from workbench.data import masks
from workbench.grids.evaluated import Evaluated
from workbench.paper.figures.chosen import Choice, key_of, opened, pictured
from workbench.paper.figures.data import FigureData, label_of, width_of
from workbench.paper.figures.panels import Band, compose, image_arrays, ratio_of
from workbench.paper.figures.predictions import boxes_text, false_regions, foot_of, panel
from workbench.results.folders import StoreError
from workbench.results.record import KEY, ExpressionKey

RULE = (
    "lowest mean IoU over all seeds, then most wrongly predicted pixels, then lowest ref_id and sent_id; no image twice"
)


def data(evaluated: Evaluated, results: Path) -> FigureData:
    """Images, and the shown seed's masks `prediction.S.R` of setting S and rank R.

    Raises:
        StoreError: nothing of the split was evaluated.
    """
    report = evaluated.grid.report
    worst = {name: _worst(frame, report.figure_split, report.examples) for name, frame in pictured(evaluated).items()}
    keys = list(dict.fromkeys(key for keys in worst.values() for key in keys))
    if not keys:
        raise StoreError(
            f"{evaluated.grid.file}: report.figure_split: nothing of {report.figure_split!r} was evaluated"
        )
    chosen = opened(evaluated, results, Choice(keys, f"by rule, {RULE}", {"rule": RULE, "split": report.figure_split}))
    arrays: dict[str, NDArray[Any]] = dict(image_arrays(chosen))
    places = {key_of(expression): i for i, expression in enumerate(chosen.expressions)}
    for s, (setting, folder) in enumerate(chosen.folders.items()):
        stored = folder.expressions().set_index(KEY)["prediction"]
        for rank, key in enumerate(worst[setting]):
            expression = chosen.expressions[places[key]]
            counts = masks.checked_counts(stored[key].encode(), expression.height, expression.width)
            arrays[f"prediction.{s}.{rank}"] = masks.decode(counts, expression.height, expression.width)
    document = {
        **chosen.document(),
        "shown_seeds": chosen.seeds,
        "worst": {setting: [places[key] for key in keys] for setting, keys in worst.items()},
    }
    return FigureData({**document, "caption": caption(FigureData(document, arrays))}, arrays)


def draw(figure_data: FigureData) -> list[Figure]:
    """The pages: a band per setting."""
    document, arrays = figure_data.document, figure_data.arrays
    bands = []
    for s, (setting, places) in enumerate(document["worst"].items()):
        panels = []
        for rank, i in enumerate(places):
            expression = document["expressions"][i]
            ious = expression["iou"][setting]
            panels.append(
                panel(
                    arrays[f"image.{i}"], arrays[f"ground_truth.{i}"], arrays[f"prediction.{s}.{rank}"],
                    ious[str(document["shown_seeds"][setting])], list(ious.values()),
                    text=f"{expression['sentence']}\n",
                )
            )  # fmt: skip
        ratio = max(ratio_of(arrays[f"image.{i}"]) for i in places)
        bands.append(
            Band(f"{label_of(document, setting)}, seed {document['shown_seeds'][setting]}", panels, None, ratio)
        )
    return compose(bands, foot_of(figure_data, caption(figure_data)), *width_of(document))


def caption(figure_data: FigureData) -> str:
    """How the expressions were chosen, and which false regions have no box."""
    document, arrays = figure_data.document, figure_data.arrays
    regions = [
        false_regions(arrays[f"prediction.{s}.{rank}"], arrays[f"ground_truth.{i}"])
        for s, places in enumerate(document["worst"].values())
        for rank, i in enumerate(places)
    ]
    several = any(len(seeds) > 1 for seeds in document["seeds"].values())
    over = " In brackets the mean ± standard deviation of the IoU over all seeds." if several else ""
    return f"The worst expressions of {document['choice']['split']}: {RULE}.{over} {boxes_text(regions)}"


def _worst(frame: pd.DataFrame, split: str, count: int) -> list[ExpressionKey]:
    here = frame[frame["split"] == split]
    wrong = (here["predicted_area"] - here["intersection"]) if "predicted_area" in here else 0
    means = here.assign(wrong=wrong).groupby([*KEY[1:], "image_id"])[["iou", "wrong"]].mean().round(9).reset_index()
    means = means.sort_values(["iou", "wrong", *KEY[1:]], ascending=[True, False, True, True]).drop_duplicates(
        "image_id"
    )
    return [ExpressionKey(split, int(r), int(s)) for r, s in means[KEY[1:]].head(count).itertuples(index=False)]
