"""What a table's tests say: which differences are real, which settings are equivalent, which is best in a column.

The p values of all differences that a report shows are corrected together, by Holm's step-down.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import pandas as pd

from workbench.analysis.comparison import ALPHA, FEWEST_SEEDS, Comparison, PairingError, compare, holm
from workbench.evaluation.metrics import metrics

Place = TypeVar("Place", bound=Hashable)


@dataclass(frozen=True)
class Judgement:
    """What the tests say of one difference.

    Attributes:
        p: of no difference, corrected; None where there are too few seeds for a test.
        p_equivalent: of a difference of the margin or more, corrected; None as well.
        detectable: the smallest difference that such a study finds with a probability of 80 %; None as well.
    """

    p: float | None = None
    p_equivalent: float | None = None
    detectable: float | None = None

    @property
    def different(self) -> bool:
        """Whether the difference bears a star."""
        return self.p is not None and self.p < ALPHA

    @property
    def equivalent(self) -> bool:
        """Whether it is within the margin."""
        return self.p_equivalent is not None and self.p_equivalent < ALPHA

    @property
    def verdict(self) -> str:
        """In words."""
        if self.p is None:
            return "not tested"
        words = ["different"] * self.different + ["equivalent"] * self.equivalent
        return " and ".join(words) or "inconclusive"


@dataclass(frozen=True)
class Family:
    """The tests of a table.

    Attributes:
        tests: how many differences are tested.
        untested: how many are not, because there are too few seeds.
        margin: within which a difference counts as none, a fraction.
    """

    tests: int = 0
    untested: int = 0
    margin: float = 0.0


def judge(comparisons: Mapping[Place, Comparison], margin: float) -> tuple[dict[Place, Judgement], Family]:
    """The judgement of each difference of a table.

    Args:
        margin: of equivalence, a fraction.
    """
    tested = {place: one for place, one in comparisons.items() if one.testable}
    differing = holm([one.p for one in tested.values()])
    near = holm([one.p_equivalent(margin) for one in tested.values()])
    judgements = dict.fromkeys(comparisons, Judgement())
    for (place, one), p, p_equivalent in zip(tested.items(), differing, near, strict=True):
        judgements[place] = Judgement(p, p_equivalent, one.detectable(len(tested)))
    return judgements, Family(len(tested), len(comparisons) - len(tested), margin)


def standings(
    metric: str, values: Mapping[str, float | None], parts: Mapping[str, pd.DataFrame], columns: int = 1
) -> dict[str, Literal["best", "near"]]:
    """Of one column, the best setting and those within its noise: not told from it, corrected for their number.

    Nobody stands out, and the answer is empty, where no setting can be told from the best, or where a setting has too
    few seeds to be told from anything.

    Args:
        values: of each setting.
        parts: its evaluated expressions.
        columns: how many columns the table has, for which the level is divided (Bonferroni).
    """
    sign = 1 if metrics[metric].direction == "higher" else -1
    ranked = sorted((name for name in parts if values.get(name) is not None), key=lambda n: -sign * (values[n] or 0.0))
    compared: dict[str, Comparison] = {}
    for name in ranked[1:]:
        one, other = _common(parts[ranked[0]], parts[name])
        try:
            compared[name] = compare(one, other, metric)
        except PairingError:
            continue  # evaluated on other expressions: it is neither near nor far
    if not compared or any(one.seeds < FEWEST_SEEDS for one in compared.values()):
        return {}
    near = [
        name
        for name, p in zip(compared, holm([one.p for one in compared.values()]), strict=True)
        if p >= ALPHA / columns
    ]
    if len(near) == len(compared):
        return {}
    return {ranked[0]: "best", **dict.fromkeys(near, "near")}


def _common(one: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the seeds that both have; predictions that were made elsewhere have none, and stay."""
    if "seed" not in one or "seed" not in other:
        return one, other
    seeds = set(one["seed"]) & set(other["seed"])
    return one[one["seed"].isin(seeds)], other[other["seed"].isin(seeds)]
