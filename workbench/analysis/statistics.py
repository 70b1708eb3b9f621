"""How sure a metric is: bootstrap over expressions, images drawn whole because an image's expressions are alike."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.evaluation.metrics import metrics

SAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % percentile interval."""

    value: float
    low: float
    high: float


def estimate(frame: pd.DataFrame, metric: str) -> Estimate:
    """A metric of evaluated expressions (column image_id and those that the metric reads) with its interval.

    Several seeds of one setting may stand in the frame together: the value is the mean over seeds, and the interval
    is over images.
    """
    parts = _parts(frame, metric)
    empty = metrics[metric].of_nothing
    return _interval(_ratio(parts, np.ones((1, parts.shape[2])), empty), _ratio(parts, _weights(parts.shape[2]), empty))


def paired_difference(frame: pd.DataFrame, baseline: pd.DataFrame, metric: str) -> Estimate:
    """A metric's difference from a baseline evaluated on the same expressions; both are drawn together.

    Raises:
        ValueError: the two do not hold the same images.
    """
    one, other = _parts(frame, metric), _parts(baseline, metric)
    if sorted(frame["image_id"].unique()) != sorted(baseline["image_id"].unique()):
        raise ValueError("a paired difference needs the same images on both sides")
    once, drawn, empty = np.ones((1, one.shape[2])), _weights(one.shape[2]), metrics[metric].of_nothing
    return _interval(
        _ratio(one, once, empty) - _ratio(other, once, empty), _ratio(one, drawn, empty) - _ratio(other, drawn, empty)
    )


def _parts(frame: pd.DataFrame, metric: str) -> NDArray[np.float64]:
    """Every metric is a ratio of sums; its numerator and denominator by seed and image: 2×seeds×images."""
    numerator, denominator = metrics[metric].parts(frame)
    runs = (
        np.unique(frame["run"].to_numpy(str), return_inverse=True)[1] if "run" in frame else np.zeros(len(frame), int)
    )
    images, image = np.unique(frame["image_id"].to_numpy(), return_inverse=True)
    shape = (int(runs.max(initial=-1)) + 1, len(images))
    cell = runs * shape[1] + image
    size = shape[0] * shape[1]
    sums = [np.bincount(cell, part, minlength=size).reshape(shape) for part in (numerator, denominator)]
    return np.stack(sums)


def _ratio(parts: NDArray[np.float64], weights: NDArray[np.float64], empty: float) -> NDArray[np.float64]:
    top, bottom = (weights @ part.T for part in parts)
    each: NDArray[np.float64] = np.divide(top, bottom, out=np.full_like(top, empty), where=bottom > 0)
    return np.asarray(each.mean(axis=1))


@functools.cache
def _weights(images: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return rng.multinomial(images, np.full(images, 1 / images), size=SAMPLES).astype(float)


def _interval(value: NDArray[np.float64], drawn: NDArray[np.float64]) -> Estimate:
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value[0]), float(low), float(high))
