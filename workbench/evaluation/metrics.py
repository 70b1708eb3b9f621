"""The metrics of referring segmentation, from areas in pixels. Each is a ratio of two sums over expressions.

With I and U an expression's intersection and union, and IoU = I/U (1 where both masks are empty):

oiou      ΣI / ΣU over expressions that mean something. Some papers call it cIoU.
miou      mean IoU over expressions that mean something.
p@X       share of these with IoU > X; p>=X the share with IoU ≥ X, as LAVT counts.

Where some expressions mean nothing (gRefCOCO), also, after GRES (arXiv 2306.00968):

giou      mean IoU over all expressions; one that means nothing counts 1 if it is answered with nothing, else 0.
ciou      ΣI / ΣU over all; a missed "nothing" adds what was predicted to U, a correct one adds nothing.
n_acc     share answered with nothing among expressions that mean nothing: TP / (TP + FN).
t_acc     share answered with something among those that mean something: TN / (TN + FP).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from workbench.data.language import length_of

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
_PRECISIONS = tuple(f"p@{threshold}" for threshold in THRESHOLDS)
_PRECISIONS_OR_EQUAL = tuple(f"p>={threshold}" for threshold in THRESHOLDS)
GENERALISED = ("giou", "ciou", "n_acc", "t_acc")
METRICS = ("oiou", "miou", *_PRECISIONS, *_PRECISIONS_OR_EQUAL, *GENERALISED)
METRIC_NAMES = (
    {"oiou": "oIoU", "miou": "mIoU", "giou": "gIoU", "ciou": "cIoU", "n_acc": "N-acc", "t_acc": "T-acc"}
    | {name: f"P@{threshold} (IoU > {threshold})" for name, threshold in zip(_PRECISIONS, THRESHOLDS, strict=True)}
    | {f"p>={threshold}": f"P@{threshold} (IoU ≥ {threshold})" for threshold in THRESHOLDS}
)
Floats = NDArray[np.float64]


def iou(intersection: ArrayLike, union: ArrayLike) -> Floats:
    """I/U an expression; 1 where both masks are empty."""
    intersection, union = np.asarray(intersection, dtype=np.float64), np.asarray(union, dtype=np.float64)
    found: Floats = np.divide(intersection, union, out=np.ones_like(union), where=union > 0)
    return found


def applicable(frame: pd.DataFrame) -> tuple[str, ...]:
    """The metrics that these expressions have: without any that mean nothing, not those of gRefCOCO."""
    if not _means_nothing(frame).any():
        return tuple(metric for metric in METRICS if metric not in GENERALISED)
    return METRICS


def ratio(frame: pd.DataFrame, metric: str) -> tuple[Floats, Floats]:
    """What each expression adds to the numerator and to the denominator of a metric.

    Args:
        frame: one row an expression, with intersection, union and predicted_area in pixels, and no_target, whether it
            means nothing; where that column is missing, all mean something.
    """
    nothing = _means_nothing(frame)
    something = (~nothing).astype(np.float64)
    if metric in ("oiou", "ciou"):
        weight = something if metric == "oiou" else np.ones(len(frame))
        top, bottom = frame["intersection"].to_numpy(np.float64), frame["union"].to_numpy(np.float64)
        return top * weight, bottom * weight
    if metric in ("n_acc", "t_acc"):
        answered = frame["predicted_area"].to_numpy() > 0
        if metric == "n_acc":
            return (nothing & ~answered).astype(np.float64), nothing.astype(np.float64)
        return (~nothing & answered).astype(np.float64), something
    each = iou(frame["intersection"], frame["union"])
    if metric == "giou":
        return each, np.ones(len(frame))
    if metric == "miou":
        return each * something, something
    if metric.startswith("p@"):
        return (each > float(metric[2:])) * something, something
    return (each >= float(metric[3:])) * something, something


def summarise(frame: pd.DataFrame, metrics: Iterable[str] | None = None) -> dict[str, float]:
    """The metrics of a frame as `ratio` wants it, shares from 0 to 1; without those that nothing is counted for.

    A ratio of areas that are all zero is 1: everything that was asked for was given.

    Args:
        metrics: other than the `applicable` ones.
    """
    found = {}
    for metric in applicable(frame) if metrics is None else metrics:
        top, bottom = (float(part.sum()) for part in ratio(frame, metric))
        if bottom or (metric in ("oiou", "ciou") and len(frame)):
            found[metric] = top / bottom if bottom else 1.0
    return found


def _means_nothing(frame: pd.DataFrame) -> NDArray[np.bool_]:
    if "no_target" not in frame:
        return np.zeros(len(frame), dtype=np.bool_)
    return frame["no_target"].to_numpy(np.bool_)


def _binned(values: pd.Series, edges: list[float], names: list[str]) -> pd.Series:
    bins = [-np.inf, *edges, np.inf]
    return pd.Series(pd.cut(values, bins=bins, labels=names, right=False, ordered=True), index=values.index)


def _lengths(frame: pd.DataFrame) -> pd.Series:
    words = frame["sentence"].map(length_of)
    return _binned(words, [3, 6, 11], ["1–2 words", "3–5 words", "6–10 words", "over 10 words"])


def _sizes(frame: pd.DataFrame) -> pd.Series:
    share = frame["target_area"] / (frame["height"] * frame["width"])
    names = ["under 2 % of the image", "2–10 %", "10–25 %", "over 25 %"]
    return _or_nothing(_binned(share, [0.02, 0.1, 0.25], names).where(frame["target_area"] > 0), frame)


def _distractors(frame: pd.DataFrame) -> pd.Series:
    counts = frame["distractors"]
    return _or_nothing(_binned(counts, [1, 2, 4], ["none", "1", "2–3", "over 3"]).where(counts >= 0), frame)


def _or_nothing(bins: pd.Series, frame: pd.DataFrame) -> pd.Series:
    """With a last bin of the expressions that mean nothing, which have neither a size nor a class."""
    nothing = _means_nothing(frame)
    bins = bins.cat.add_categories([NOTHING])
    return bins.mask(nothing, NOTHING)


def _kinds(frame: pd.DataFrame) -> pd.Series:
    return pd.Series(pd.Categorical(frame["kind"], ["attribute", "place", "relation"], ordered=True), frame.index)


NOTHING = "nothing is meant"
BREAKDOWNS: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "length": ("length of the expression", _lengths),
    "kind": ("kind of words", _kinds),
    "size": ("size of the referent", _sizes),
    "distractors": ("other objects of its class", _distractors),
}
"""What expressions can be sorted by: a title, and a function from a frame to each row's bin, missing if unknown."""


def breakdown(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """The metrics by bins of expressions.

    Args:
        frame: evaluated expressions, as a run stores them.
        by: a key of `BREAKDOWNS`.

    Returns:
        One row a bin that is not empty: bin, order (its place among all bins), expressions, and the metrics that
        apply to the frame as a whole.
    """
    bins = BREAKDOWNS[by][1](frame)
    metrics = applicable(frame)
    order = {name: place for place, name in enumerate(bins.cat.categories)}
    rows = [
        {"bin": str(name), "order": order[name], "expressions": len(part), **summarise(part, metrics)}
        for name, part in frame.groupby(bins, observed=True, sort=True)
    ]
    return pd.DataFrame(rows, columns=["bin", "order", "expressions", *metrics])
