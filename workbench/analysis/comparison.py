"""Comparisons of a table's settings: paired by seed and expression, with an interval over seeds and images, and tests.

For each image and seed a difference is computed, and seeds and images are crossed random effects of it: a seed moves
all images, an image is easier or harder for all seeds. The mean's variance comes from the mean squares of that two-way
layout without repetition, as in Searle, Casella and McCulloch (1992, chapter 4), and the interval is Student's t with
Satterthwaite's (1946) degrees of freedom. An image's expressions are one cluster: they stay together.

Those degrees of freedom are estimated too, which is harmless at 5 % and not at the thousandths that a correction for
many tests asks for: where seeds vary most, one of sixteen tests erred in 31 % of simulated tables with three seeds, in
12 % with five. So tests take one less than the number of seeds, the fewest that there can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import optimize, stats

from workbench.analysis.statistics import LEVEL, Estimate
from workbench.errors import WorkbenchError, counted
from workbench.evaluation.metrics import metrics
from workbench.results.record import KEY

ALPHA = 1 - LEVEL
POWER = 0.8
FEWEST_SEEDS = 3
"""Of fewer, no test is made: one seed says nothing of another, and with two a single test would need a difference of
12.7 standard errors."""

NO_SEED = -1
"""Stands for the seed of predictions that were made elsewhere."""


class PairingError(WorkbenchError):
    """Two sides of a difference are not evaluated on the same seeds or expressions."""


@dataclass(frozen=True)
class Comparison:
    """A difference of two settings in a metric.

    Attributes:
        value: the mean over seeds, a fraction.
        error: its standard error, over seeds (where there are several) and images.
        freedom: degrees of freedom of Student's t for it; infinite where there is no error at all.
        seeds: how many pairs of runs.
        images: how many clusters of expressions.
    """

    value: float
    error: float
    freedom: float
    seeds: int
    images: int

    @property
    def interval(self) -> Estimate:
        """The value with its 95 % interval."""
        reach = float(stats.t.ppf((1 + LEVEL) / 2, self.freedom)) * self.error
        return Estimate(self.value, self.value - reach, self.value + reach)

    @property
    def testable(self) -> bool:
        """Whether there are seeds enough for a test."""
        return self.seeds >= FEWEST_SEEDS

    @property
    def test_freedom(self) -> float:
        """Degrees of freedom of the tests."""
        return max(1.0, min(self.freedom, self.seeds - 1.0))

    @property
    def p(self) -> float:
        """Of no difference, two-sided; 1 where nothing differs at all."""
        if self.error == 0:
            return 1.0 if self.value == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.test_freedom))

    def p_equivalent(self, margin: float) -> float:
        """Of a difference of `margin` (a fraction) or more either way: two one-sided tests (Schuirmann 1987)."""
        if self.error == 0:
            return 0.0 if abs(self.value) < margin else 1.0
        return float(stats.t.sf((margin - abs(self.value)) / self.error, self.test_freedom))

    def detectable(self, tests: int = 1) -> float:
        """The smallest true difference that a study like this one finds with a probability of 80 %.

        Args:
            tests: in how many comparisons, by Holm's strictest step.
        """
        if self.error == 0:
            return 0.0
        critical = float(stats.t.ppf(1 - ALPHA / tests / 2, self.test_freedom))

        def missing(shift: float) -> float:
            return float(stats.nct.sf(critical, self.test_freedom, shift)) - POWER

        return float(optimize.brentq(missing, 0.0, 20 * critical)) * self.error


def compare(frame: pd.DataFrame, baseline: pd.DataFrame, metric: str) -> Comparison:
    """A metric's difference from a baseline, over the seeds of both.

    Args:
        frame, baseline: evaluated expressions of one split, with the columns of `KEY`, image_id and those that the
            metric reads; with `seed`, where there are several. Either side may have no seed (predictions that were
            made elsewhere); it is then the partner of each seed of the other.

    Raises:
        PairingError: the seeds differ, or a seed's rows are not the same expressions in the same order.
    """
    return compared(pairs_of(frame, baseline), metric)


@dataclass(frozen=True)
class Pairs:
    """The rows of each seed on both sides of a difference, of the same expressions in the same order.

    Attributes:
        image: for each row of a seed the number of its image.
        images: how many images there are.
    """

    ours: tuple[pd.DataFrame, ...]
    theirs: tuple[pd.DataFrame, ...]
    image: NDArray[np.intp]
    images: int


def pairs_of(frame: pd.DataFrame, baseline: pd.DataFrame) -> Pairs:
    """What is the same for each metric of a difference. Arguments and errors are those of `compare`."""
    ours, theirs = _paired(frame, baseline)
    images, image = np.unique(ours[0]["image_id"].to_numpy(), return_inverse=True)
    return Pairs(tuple(ours), tuple(theirs), image, len(images))


def compared(pairs: Pairs, metric: str) -> Comparison:
    """A metric's difference. See `compare`."""
    cells = np.array(
        [
            _cells(one, metric, pairs.image, pairs.images) - _cells(other, metric, pairs.image, pairs.images)
            for one, other in zip(pairs.ours, pairs.theirs, strict=True)
        ]
    )
    return of_cells(cells)


def of_cells(cells: NDArray[np.float64]) -> Comparison:
    """From one number for each seed and image, seeds×images, to their mean and its error.

    With m_s, m_i and m_r the mean squares of seeds, images and the rest, the mean's variance is
    (m_s + m_i − m_r) / (seeds · images). Where that is less than what m_s or m_i alone give, chance made m_r large, and
    the larger of those stands in for it.
    """
    seeds, images = cells.shape
    mean = float(cells.mean())
    if not np.isfinite(mean):
        return Comparison(mean, math.nan, math.nan, seeds, images)
    by_seed, by_image = cells.mean(axis=1), cells.mean(axis=0)
    image_square = seeds * float(by_image.var(ddof=1)) if images > 1 else 0.0
    if seeds == 1:
        return _comparison(mean, [(image_square, images - 1)], cells.shape)
    seed_square = images * float(by_seed.var(ddof=1))
    if images == 1:
        return _comparison(mean, [(seed_square, seeds - 1)], cells.shape)
    rest = cells - by_seed[:, None] - by_image[None, :] + mean
    rest_freedom = (seeds - 1) * (images - 1)
    rest_square = float((rest**2).sum()) / rest_freedom
    if seed_square <= rest_square or image_square <= rest_square:
        larger = max((seed_square, seeds - 1), (image_square, images - 1))
        return _comparison(mean, [larger], cells.shape)
    terms = [(seed_square, seeds - 1), (image_square, images - 1), (-rest_square, rest_freedom)]
    return _comparison(mean, terms, cells.shape)


def _comparison(mean: float, terms: Sequence[tuple[float, int]], shape: tuple[int, ...]) -> Comparison:
    """From mean squares with their degrees of freedom; Satterthwaite's (1946) for their sum."""
    seeds, images = shape
    total = sum(square for square, _ in terms)
    if total <= 0:
        return Comparison(mean, 0.0, math.inf, seeds, images)
    freedom = total**2 / sum(square**2 / of for square, of in terms)
    return Comparison(mean, math.sqrt(total / (seeds * images)), freedom, seeds, images)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for their number by Holm's (1979) step-down: of those below a level, all are false with at most that
    probability."""
    order = np.argsort(p_values)
    steps = np.maximum.accumulate([(len(p_values) - rank) * p_values[i] for rank, i in enumerate(order)])
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(p) for p in adjusted]


def _paired(frame: pd.DataFrame, baseline: pd.DataFrame) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """The rows of each seed on both sides, in the order of the seeds."""
    if frame.empty or baseline.empty:
        raise PairingError("there is no seed that both sides have")
    ours, theirs = _by_seed(frame), _by_seed(baseline)
    if list(ours) == [NO_SEED]:
        ours = dict.fromkeys(theirs, ours[NO_SEED])
    if list(theirs) == [NO_SEED]:
        theirs = dict.fromkeys(ours, theirs[NO_SEED])
    if list(ours) != list(theirs):
        raise PairingError(
            f"a paired difference needs the same seeds on both sides, not {_named(ours)} and {_named(theirs)}"
        )
    for seed in ours:
        check_same_expressions(ours[seed], theirs[seed], "" if seed == NO_SEED else f"seed {seed}: ")
    return list(ours.values()), list(theirs.values())


def _by_seed(frame: pd.DataFrame) -> dict[int, pd.DataFrame]:
    if "seed" not in frame:
        return {NO_SEED: frame}
    parts = {int(str(seed)): part for seed, part in frame.groupby("seed", sort=True)}
    for seed, part in parts.items():
        if "run" in part and part["run"].nunique() > 1:
            raise PairingError(f"seed {seed} has {part['run'].nunique()} runs; a pair is of one run on each side")
    return parts


def _named(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def check_same_expressions(one: pd.DataFrame, other: pd.DataFrame, where: str = "") -> None:
    """PairingError where two frames are not, row by row, of the same expressions and the same ground truth.

    Rows in another order are refused as well, not sorted: who shuffled them may have left a column behind.
    """
    if len(one) != len(other):
        sides = f"{counted(len(one), 'expression')} on one side and {len(other):,} on the other"
        raise PairingError(f"{where}{sides} cannot be paired")
    for column in ("image_id", *KEY, "target_area"):
        if column not in one or column not in other:
            continue
        first, second = one[column].to_numpy(), other[column].to_numpy()
        if wrong := np.flatnonzero(first != second).tolist():
            raise PairingError(
                f"{where}row {wrong[0]} is not the same expression on both sides: {column} is {first[wrong[0]]} and "
                f"{second[wrong[0]]} (so in {len(wrong)} of {len(one)} rows)"
            )


def _cells(frame: pd.DataFrame, metric: str, image: NDArray[np.intp], images: int) -> NDArray[np.float64]:
    """One number for each image, whose mean is the metric.

    Every metric is a ratio of sums T/B, which is not a mean of images; to first order it is one, of
    T/B + (t_i − T/B · b_i) · images/B, the linearisation that survey statistics uses (Cochran 1977, section 2.11).
    """
    top, bottom = (np.bincount(image, part, minlength=images) for part in metrics[metric].parts(frame))
    whole = float(bottom.sum())
    if whole == 0:
        return np.full(images, metrics[metric].of_nothing)
    ratio = float(top.sum()) / whole
    cells: NDArray[np.float64] = ratio + (top - ratio * bottom) * images / whole
    return cells
