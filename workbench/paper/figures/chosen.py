"""Which runs and expressions a picture shows, with their images and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.grids import Grid
from workbench.grids.evaluated import Evaluated
from workbench.grids.file import key_in
from workbench.results.folders import RunFolder, StoreError
from workbench.results.record import KEY, ExpressionKey

if TYPE_CHECKING:
    from workbench.data.loading import Expression, ReferringDataset


MOST_SETTINGS = 24
"""More do not fit beside each other on the pages of a picture."""


@dataclass(frozen=True)
class Choice:
    """How the expressions of a picture were chosen.

    Attributes:
        text: the rule in words, for the caption.
        document: the rule as plain JSON.
    """

    keys: list[ExpressionKey]
    text: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """One run per setting, and the expressions that a picture shows.

    Attributes:
        folders: of the shown runs, by setting.
        seeds: the shown seed of each setting.
        frames: the evaluated expressions of every completed seed, by setting.
    """

    folders: dict[str, RunFolder]
    seeds: dict[str, int]
    frames: dict[str, pd.DataFrame]
    dataset: ReferringDataset
    expressions: list[Expression]
    choice: Choice
    labels: Mapping[str, str]

    def rows(self, setting: str, key: ExpressionKey) -> pd.DataFrame:
        """A setting's evaluations of one expression, one row per seed."""
        frame = self.frames[setting]
        here = (frame["split"] == key.split) & (frame["ref_id"] == key.ref_id) & (frame["sent_id"] == key.sent_id)
        return frame[here].sort_values("seed")

    def document(self) -> dict[str, Any]:
        """What is shown, as plain JSON; IoU by setting and seed."""
        return {
            "runs": {setting: folder.name for setting, folder in self.folders.items()},
            "labels": {setting: self.labels.get(setting, setting) for setting in self.folders},
            "seeds": {setting: sorted(int(s) for s in set(frame["seed"])) for setting, frame in self.frames.items()},
            "chosen": self.choice.text,
            "choice": self.choice.document,
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
    """The runs of a grid's pictures, with the expressions that the grid names, or else those of the rule.

    Raises:
        StoreError: see `opened`; or nothing of the split, or not what is named, was evaluated.
        DataError: the data set is not here.
    """
    report, frames = evaluated.grid.report, pictured(evaluated)
    if report.expressions:
        choice = _named(evaluated.grid, frames)
    else:
        choice = by_rule(frames, evaluated.grid, report.figure_split, report.examples)
    return opened(evaluated, results, choice)


def opened(evaluated: Evaluated, results: Path, choice: Choice) -> Chosen:
    """Chosen expressions with their data set, and the run of every setting that is shown.

    Raises:
        StoreError: a setting lacks the seed that the grid names, or the data set the expressions that were evaluated.
        DataError: the data set is not here.
    """
    # These load torch, which a table or bars need not wait for.
    from workbench.data.datasets import open_dataset
    from workbench.data.loading import ReferringDataset

    frames, grid = pictured(evaluated), evaluated.grid
    config = grid.settings[next(iter(frames))]
    tables = open_dataset(config)
    splits = list(dict.fromkeys(key.split for key in choice.keys))
    datasets = [ReferringDataset(tables, split, config.backbone.image_size, config.data) for split in splits]
    by_key = {key_of(expression): expression for dataset in datasets for expression in dataset.expressions}
    if unknown := [key for key in choice.keys if key not in by_key]:
        raise StoreError(
            f"{grid.file}: the runs were evaluated on other expressions of {unknown[0].split!r} than are in "
            f"{config.machine.data_root}: sent_id {unknown[0].sent_id} is not there"
        )
    seeds = _shown_seeds(evaluated, list(frames))
    folders = {name: RunFolder(results, evaluated.run_of(name, seeds[name])) for name in frames}
    expressions = [by_key[key] for key in choice.keys]
    # Image, mask and placement depend on the expression alone, so one split's data set serves for all.
    return Chosen(folders, seeds, frames, datasets[0], expressions, choice, grid.labels)


def pictured(evaluated: Evaluated) -> dict[str, pd.DataFrame]:
    """The evaluated expressions of the settings that a picture shows; StoreError where it cannot."""
    grid = evaluated.grid
    settings = [name for name in grid.settings if name in evaluated.expressions]
    if len(settings) > MOST_SETTINGS:
        raise StoreError(
            f"{grid.file}: a picture of {len(settings)} settings cannot be read; name at most {MOST_SETTINGS} "
            "with --settings, or in report.settings"
        )
    if not settings:
        raise StoreError(f"{grid.file}: none of the settings that are to be shown has a completed run")
    data = {name: grid.settings[name].data for name in settings}
    other = [name for name, config in data.items() if not config.same_set(data[settings[0]])]
    if other:
        raise StoreError(f"{grid.file}: setting {other[0]!r} has other images; a picture needs the same ones for all")
    return {name: evaluated.expressions[name] for name in settings}


def _shown_seeds(evaluated: Evaluated, settings: Sequence[str]) -> dict[str, int]:
    """The seed that the grid names; else the lowest that all settings have, or each one's lowest."""
    wanted, seeds = evaluated.grid.report.seed, {name: evaluated.seeds(name) for name in settings}
    if wanted is None:
        common = set.intersection(*(set(own) for own in seeds.values()))
        return {name: min(common or own) for name, own in seeds.items()}
    for name, own in seeds.items():
        if wanted not in own:
            raise StoreError(
                f"{evaluated.grid.file}: --seed {wanted}: setting {name!r} has no completed run of it; it has "
                f"{', '.join(map(str, own))}"
            )
    return dict.fromkeys(settings, wanted)


def _named(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> Choice:
    keys = [key_in(text) for text in grid.report.expressions]
    first = next(iter(frames.values()))
    there = set(first[KEY].itertuples(index=False, name=None))
    for key in keys:
        if tuple(key) not in there:
            example = ":".join(map(str, first[KEY].iloc[0]))
            raise StoreError(
                f"{grid.file}: report.expressions: {':'.join(map(str, key))} was not evaluated; {example} was"
            )
    return Choice(keys, "named by hand", {"rule": "named"})


def by_rule(frames: Mapping[str, pd.DataFrame], grid: Grid, split: str, count: int) -> Choice:
    """Expressions at evenly spaced quantiles of the difference in IoU between the last setting and the baseline.

    Of `count` expressions, number i (from 0) stands at the quantile (2i+1)/(2 count) of all that were evaluated, sorted
    by difference and then by key. The difference is the mean over the seeds that both have. Of one setting, its IoU is
    taken in place of the difference.

    Raises:
        StoreError: nothing of the split was evaluated.
    """
    names = list(frames)
    baseline = names[0] if grid.baseline is None or grid.baseline not in frames else grid.baseline
    last = next((name for name in reversed(names) if name != baseline), baseline)
    seeds = set(frames[last]["seed"]) & set(frames[baseline]["seed"])
    values = _mean_iou(frames[last], split, seeds)
    if last != baseline:
        values = values - _mean_iou(frames[baseline], split, seeds)
    if values.empty:
        raise StoreError(f"{grid.file}: report.figure_split: no expression of {split!r} was evaluated")
    ranked = values.round(9).reset_index(name="value").sort_values(["value", *KEY[1:]])
    number = len(ranked)
    places = list(dict.fromkeys((2 * i + 1) * number // (2 * count) for i in range(count)))
    quantiles = [round(100 * (2 * i + 1) / (2 * count), 1) for i in range(count)][: len(places)]
    rows = ranked.iloc[places]
    keys = [ExpressionKey(split, int(r), int(s)) for r, s in rows[KEY[1:]].itertuples(index=False)]
    of = grid.label(last) if last == baseline else f"{grid.label(last)} − {grid.label(baseline)}"
    what = "IoU" if last == baseline else "difference in IoU"
    over = "" if len(seeds) < 2 else f", mean over {len(seeds)} seeds"
    mean = f"{100 * values.mean():{'' if last == baseline else '+'}z.1f}".replace("-", "−")
    text = (
        f"by rule, at the {_listed(quantiles)} quantiles of the {what} ({of}{over}) over all {number:,} of {split}, "
        f"whose mean is {mean}; ties by ref_id and sent_id"
    )
    document = {
        "rule": "quantiles",
        "of": last,
        "baseline": None if last == baseline else baseline,
        "seeds": sorted(int(seed) for seed in seeds),
        "split": split,
        "quantiles": quantiles,
        "values": [round(float(value), 6) for value in rows["value"]],
        "mean": round(float(values.mean()), 6),
        "expressions": number,
        "ties": "by ref_id and sent_id",
    }
    return Choice(keys, text, document)


def _mean_iou(frame: pd.DataFrame, split: str, seeds: set[int]) -> pd.Series:
    """By ref_id and sent_id, over the seeds; over all of them where none is given."""
    here = frame[frame["split"] == split]
    here = here[here["seed"].isin(seeds)] if seeds else here
    return here.groupby(KEY[1:])["iou"].mean()


def _listed(quantiles: Sequence[float]) -> str:
    texts = [f"{quantile:g}" for quantile in quantiles]
    return f"{', '.join(texts[:-1])} and {texts[-1]} %" if len(texts) > 1 else f"{texts[0]} %"
