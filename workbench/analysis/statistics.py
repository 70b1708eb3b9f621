"""How sure a metric is: over images, drawn whole because an image's expressions are alike, and over seeds.

Of one seed, the interval is the bootstrap's over images. Of several, the variance between the seeds' values and that
between drawn sets of images are added, and the interval is Student's t with the degrees of freedom of Welch (1947) and
Satterthwaite (1946): few seeds that differ make it wide.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from workbench.evaluation.metrics import metrics

SAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sample:
    """Evaluated expressions by run: what is the same for each metric of them.

    Attributes:
        runs: the rows of each run, in the order of the seeds.
        image: for each row of a run the number of its image.
        images: how many images there are.
    """

    runs: tuple[pd.DataFrame, ...]
    image: tuple[NDArray[np.intp], ...]
    images: int


def sample_of(frame: pd.DataFrame) -> Sample:
    """The expressions of a frame with the column image_id, and `run` and `seed` where there are several."""
    images, image = np.unique(frame["image_id"].to_numpy(), return_inverse=True)
    runs = _in_order_of_seeds(frame)
    each = [runs == run for run in range(max(1, runs.max(initial=-1) + 1))]
    return Sample(tuple(frame[rows] for rows in each), tuple(image[rows] for rows in each), len(images))


def estimate(frame: pd.DataFrame | Sample, metric: str) -> Estimate:
    """A metric of evaluated expressions (column image_id and those that the metric reads) with its interval.

    Several seeds of one setting may stand in the frame together: the value is the mean over seeds, and the interval
    is over images and seeds.
    """
    parts = _parts(frame if isinstance(frame, Sample) else sample_of(frame), metric)
    empty = metrics[metric].of_nothing
    found = _interval(
        _ratios(parts, np.ones((1, parts.shape[2])), empty)[0], _ratios(parts, _weights(parts.shape[2]), empty)
    )
    return Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))


def paired_difference(frame: pd.DataFrame, baseline: pd.DataFrame, metric: str) -> Estimate:
    """A metric's difference from a baseline evaluated on the same expressions; both are drawn together.

    Args:
        frame, baseline: where both hold several seeds, the same ones.

    Raises:
        ValueError: the two do not hold the same images, or the same number of seeds.
    """
    one, other = (_parts(sample_of(side), metric) for side in (frame, baseline))
    if sorted(frame["image_id"].unique()) != sorted(baseline["image_id"].unique()):
        raise ValueError("a paired difference needs the same images on both sides")
    if len(one[0]) != len(other[0]) and 1 not in (len(one[0]), len(other[0])):
        raise ValueError("a paired difference needs the same seeds on both sides")
    once, drawn, empty = np.ones((1, one.shape[2])), _weights(one.shape[2]), metrics[metric].of_nothing
    return _interval(
        (_ratios(one, once, empty) - _ratios(other, once, empty))[0],
        _ratios(one, drawn, empty) - _ratios(other, drawn, empty),
    )


def mean_of(values: NDArray[np.float64], image_ids: NDArray[np.int64]) -> Estimate:
    """The mean of numbers of expressions, with its interval over images; numbers that are not finite are left out."""
    there = np.isfinite(values)
    images, image = np.unique(image_ids[there], return_inverse=True)
    if not len(images):
        return Estimate(float("nan"), float("nan"), float("nan"))
    sums = np.stack([np.bincount(image, values[there]), np.bincount(image)])[:, None].astype(float)
    once = np.ones((1, len(images)))
    return _interval(_ratios(sums, once, 0.0)[0], _ratios(sums, _weights(len(images)), 0.0))


def rank_correlation(
    one: NDArray[np.float64], other: NDArray[np.float64], image_ids: NDArray[np.int64], minus: Any = None
) -> Estimate:
    """Spearman's ρ of two numbers of expressions, with its interval over images; NaN where one of them is constant.

    Ranks are those in the whole sample, also where images are drawn. Expressions that lack a number are left out.

    Args:
        minus: a third number; then of the difference of ρ(one, other) from ρ(minus, other), both drawn together.
    """
    columns = [one, other] if minus is None else [one, other, np.asarray(minus, dtype=float)]
    there = np.isfinite(np.stack(columns)).all(axis=0)
    images, image = np.unique(image_ids[there], return_inverse=True)
    if len(images) < 2:
        return Estimate(float("nan"), float("nan"), float("nan"))
    ranked = [stats.rankdata(column[there]) / there.sum() for column in columns]
    weights = np.concatenate([np.ones((1, len(images))), _weights(len(images))])
    found = _correlations(ranked[0], ranked[1], image, weights)
    if minus is not None:
        found = found - _correlations(ranked[2], ranked[1], image, weights)
    low, high = (
        np.nanquantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if np.isfinite(found[0]) else (np.nan,) * 2
    )
    return Estimate(float(found[0]), float(low), float(high))


def _correlations(
    x: NDArray[np.float64], y: NDArray[np.float64], image: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pearson's r for each draw of images, from each image's sums; NaN where there is no variance."""
    x, y = x - x.mean(), y - y.mean()
    count, sx, sy, xx, yy, xy = (
        weights @ np.bincount(image, values) for values in (np.ones_like(x), x, y, x * x, y * y, x * y)
    )
    spread = (count * xx - sx**2) * (count * yy - sy**2)
    # A constant has a variance of about nothing, not of exactly nothing.
    varies = spread > 1e-18 * count**4
    r: NDArray[np.float64] = np.divide(
        count * xy - sx * sy, np.sqrt(np.where(varies, spread, 1.0)), out=np.full_like(count, np.nan), where=varies
    )
    return r


def _parts(sample: Sample, metric: str) -> NDArray[np.float64]:
    """Every metric is a ratio of sums; its numerator and denominator by seed and image: 2×seeds×images."""
    sums = np.zeros((2, len(sample.runs), sample.images))
    for run, (rows, image) in enumerate(zip(sample.runs, sample.image, strict=True)):
        for number, part in enumerate(metrics[metric].parts(rows)):
            sums[number, run] = np.bincount(image, part, minlength=sample.images)
    return sums


def _in_order_of_seeds(frame: pd.DataFrame) -> NDArray[np.int64]:
    """For each row the number of its run, counted by seed, so that both sides of a difference have the same order."""
    if "run" not in frame:
        return np.zeros(len(frame), np.int64)
    by = ["seed", "run"] if "seed" in frame else ["run"]
    return np.asarray(frame.groupby(by, sort=True).ngroup(), dtype=np.int64)


def _ratios(parts: NDArray[np.float64], weights: NDArray[np.float64], empty: float) -> NDArray[np.float64]:
    """The metric of each draw and seed: draws×seeds."""
    top, bottom = (weights @ part.T for part in parts)
    each: NDArray[np.float64] = np.divide(top, bottom, out=np.full_like(top, empty), where=bottom > 0)
    return each


@functools.cache
def _weights(images: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return rng.multinomial(images, np.full(images, 1 / images), size=SAMPLES).astype(float)


def _interval(values: NDArray[np.float64], drawn: NDArray[np.float64]) -> Estimate:
    """Of the seeds' values, and of what they would be for drawn sets of images: draws×seeds."""
    value, means = float(values.mean()), drawn.mean(axis=1)
    seeds = len(values)
    between_seeds = float(values.var(ddof=1)) / seeds if seeds > 1 else 0.0
    if between_seeds == 0 or not np.isfinite(between_seeds):
        low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(value, float(low), float(high))
    variance = between_seeds + float(np.nanvar(means))
    freedom = variance**2 / (between_seeds**2 / (seeds - 1))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    return Estimate(value, value - reach, value + reach)
