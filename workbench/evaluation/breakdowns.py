"""Metrics by kinds of expressions: length, words, size of the referent, other objects of its class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from workbench.data.language import length_of
from workbench.evaluation.metrics import applicable, is_no_target, summarise

NO_TARGET = "no target"


def _binned(values: pd.Series, edges: list[float], names: list[str]) -> pd.Series:
    bins = [-np.inf, *edges, np.inf]
    return pd.Series(pd.cut(values, bins=bins, labels=names, right=False, ordered=True), index=values.index)


def _lengths(frame: pd.DataFrame) -> pd.Series:
    words = frame["sentence"].map(length_of)
    return _binned(words, [3, 6, 11], ["1–2 words", "3–5 words", "6–10 words", "over 10 words"])


def _sizes(frame: pd.DataFrame) -> pd.Series:
    fraction = frame["target_area"] / (frame["height"] * frame["width"])
    names = ["under 2 % of the image", "2–10 %", "10–25 %", "over 25 %"]
    return _or_no_target(_binned(fraction, [0.02, 0.1, 0.25], names).where(frame["target_area"] > 0), frame)


def _distractors(frame: pd.DataFrame) -> pd.Series:
    counts = frame["distractors"]
    return _or_no_target(_binned(counts, [1, 2, 4], ["none", "1", "2–3", "over 3"]).where(counts >= 0), frame)


def _or_no_target(bins: pd.Series, frame: pd.DataFrame) -> pd.Series:
    """With a last bin of the no-target expressions, which have neither a size nor a class."""
    return bins.cat.add_categories([NO_TARGET]).mask(is_no_target(frame), NO_TARGET)


def _kinds(frame: pd.DataFrame) -> pd.Series:
    return pd.Series(pd.Categorical(frame["kind"], ["attribute", "place", "relation"], ordered=True), frame.index)


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
        One row per bin that is not empty: bin, order (its place among all bins), expressions, and the metrics that
        apply to the frame as a whole.
    """
    bins = BREAKDOWNS[by][1](frame)
    names = applicable(frame)
    order = {name: place for place, name in enumerate(bins.cat.categories)}
    rows = [
        {"bin": str(name), "order": order[name], "expressions": len(part), **summarise(part, names)}
        for name, part in frame.groupby(bins, observed=True, sort=True)
    ]
    return pd.DataFrame(rows, columns=["bin", "order", "expressions", *names])
