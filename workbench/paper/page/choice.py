"""Which expressions the gallery shows: worst, best, where settings disagree most, and at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from workbench.evaluation.metrics import iou
from workbench.results.record import KEY, ExpressionKey

GROUPS = {"worst": "worst", "best": "best", "disagree": "settings disagree most", "random": "at random"}
UNKNOWN_KIND = "kind not known"


def scores_of(frames: Mapping[str, pd.DataFrame], splits: Sequence[str]) -> pd.DataFrame:
    """The expressions that all settings were evaluated on, by their keys.

    Args:
        frames: evaluated expressions by setting, every seed.

    Returns:
        image_id, sentence, kind and category; and, of each setting's mean IoU over its seeds, the mean over settings
        and the range.
    """
    columns = {}
    for name, frame in frames.items():
        ious = pd.Series(iou(frame["intersection"], frame["union"]), pd.MultiIndex.from_frame(frame[KEY]))
        columns[name] = ious.groupby(level=KEY, sort=True).mean()
    by_setting = pd.concat(columns, axis=1, join="inner")
    first = next(iter(frames.values())).drop_duplicates(KEY).set_index(KEY).reindex(by_setting.index)
    scores = first[["image_id", "sentence"]].assign(
        kind=first["kind"].fillna(UNKNOWN_KIND) if "kind" in first else UNKNOWN_KIND,
        category=first["category"].fillna("") if "category" in first else "",
        mean=by_setting.mean(axis=1),
        range=by_setting.max(axis=1) - by_setting.min(axis=1),
    )
    return scores[scores.index.get_level_values("split").isin(list(splits))]


def choose(scores: pd.DataFrame, count: int) -> dict[ExpressionKey, list[str]]:
    """The groups of each chosen expression; a group has up to `count`, and of equal ones a fixed random choice.

    Each group takes splits and kinds in turn, since the hardest split or kind would fill it alone; no image twice.
    """
    shuffled = scores.sample(frac=1.0, random_state=0)
    orders = {
        "worst": shuffled.sort_values("mean", kind="stable"),
        "best": shuffled.sort_values("mean", kind="stable", ascending=False),
        "disagree": shuffled[shuffled["range"] > 0].sort_values("range", kind="stable", ascending=False),
        "random": shuffled,
    }
    chosen: dict[ExpressionKey, list[str]] = {}
    for group, ordered in orders.items():
        rows = ordered.reset_index().drop_duplicates(["split", "image_id"])
        turn = rows.groupby(["split", "kind"], sort=False).cumcount()
        picked = rows.loc[turn.sort_values(kind="stable").head(count).index, KEY]
        for split, ref_id, sent_id in picked.itertuples(index=False):
            chosen.setdefault(ExpressionKey(str(split), int(ref_id), int(sent_id)), []).append(group)
    return chosen
