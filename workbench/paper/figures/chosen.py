"""Which runs and expressions a picture shows, with their images and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.grids.evaluated import Evaluated
from workbench.results.folders import RunFolder, StoreError
from workbench.results.record import KEY, ExpressionKey

if TYPE_CHECKING:
    from workbench.data.loading import Expression, ReferringDataset


@dataclass(frozen=True)
class Chosen:
    """One run per setting, and the expressions that a picture shows.

    Attributes:
        folders: of the shown runs, by setting.
        seeds: the shown seed of each setting; the lowest that all have, if there is one.
        frames: the evaluated expressions of every completed seed, by setting.
    """

    folders: dict[str, RunFolder]
    seeds: dict[str, int]
    frames: dict[str, pd.DataFrame]
    dataset: ReferringDataset
    expressions: list[Expression]

    def rows(self, setting: str, key: ExpressionKey) -> pd.DataFrame:
        """A setting's evaluations of one expression, one row per seed."""
        frame = self.frames[setting]
        here = (frame["split"] == key.split) & (frame["ref_id"] == key.ref_id) & (frame["sent_id"] == key.sent_id)
        return frame[here].sort_values("seed")

    def document(self) -> dict[str, Any]:
        """What is shown, as plain JSON; IoU by setting and seed."""
        return {
            "runs": {setting: folder.name for setting, folder in self.folders.items()},
            "seeds": {setting: sorted(int(s) for s in set(frame["seed"])) for setting, frame in self.frames.items()},
            "chosen": "at random (seed 0), in turn among expressions of attributes, places and relations",
            "expressions": [
                {
                    "image_id": expression.image_id,
                    **key_of(expression)._asdict(),
                    "sentence": expression.sentence,
                    "iou": {setting: self._ious(setting, key_of(expression)) for setting in self.folders},
                }
                for expression in self.expressions
            ],
        }

    def _ious(self, setting: str, key: ExpressionKey) -> dict[str, float]:
        rows = self.rows(setting, key)
        return {str(seed): round(float(iou), 4) for seed, iou in zip(rows["seed"], rows["iou"], strict=True)}


def key_of(expression: Expression) -> ExpressionKey:
    """What an expression is known by."""
    return ExpressionKey(expression.split, expression.ref_id, expression.sent_id)


def choose(evaluated: Evaluated, results: Path) -> Chosen:
    """The runs and expressions of a grid's pictures.

    Raises:
        StoreError: the settings were evaluated on different images or on other data than are here, or nothing of the
            split was.
        DataError: the data set is not here.
    """
    # These load torch, which a table or bars need not wait for.
    from workbench.data.datasets import open_dataset
    from workbench.data.loading import ReferringDataset

    grid = evaluated.grid
    settings = [name for name in grid.settings if name in evaluated.expressions]
    data = {name: grid.settings[name].data for name in settings}
    other = [name for name, config in data.items() if not config.same_set(data[settings[0]])]
    if other:
        raise StoreError(f"{grid.file}: setting {other[0]!r} has other images; a picture needs the same ones for all")
    config, split = grid.settings[settings[0]], grid.report.figure_split
    dataset = ReferringDataset(open_dataset(config), split, config.backbone.image_size, config.data)
    frames = {name: evaluated.expressions[name] for name in settings}
    common = set.intersection(*(set(evaluated.seeds(name)) for name in settings))
    seeds = {name: min(common or evaluated.seeds(name)) for name in settings}
    first = frames[settings[0]]
    first = first[(first["split"] == split) & (first["seed"] == seeds[settings[0]])]
    keys = _chosen_keys(first, grid.report.examples)
    if not keys:
        raise StoreError(f"{grid.file}: report.figure_split: no expression of {split!r} was evaluated")
    by_key = {key_of(expression): expression for expression in dataset.expressions}
    if unknown := [key for key in keys if key not in by_key]:
        raise StoreError(
            f"{grid.file}: the runs were evaluated on other expressions of {split!r} than are in "
            f"{config.machine.data_root}: sent_id {unknown[0].sent_id} is not there"
        )
    folders = {name: RunFolder(results, evaluated.run_of(name, seeds[name])) for name in settings}
    return Chosen(folders, seeds, frames, dataset, [by_key[key] for key in keys])


def _chosen_keys(frame: pd.DataFrame, count: int) -> list[ExpressionKey]:
    """Expressions at random, in turn among the kinds, no image twice."""
    shuffled = frame.sample(frac=1.0, random_state=0).drop_duplicates("image_id")
    shuffled = shuffled.assign(turn=shuffled.groupby("kind").cumcount()).sort_values(["turn", "kind"])
    return [ExpressionKey(str(s), int(r), int(i)) for s, r, i in shuffled[KEY].head(count).itertuples(index=False)]
