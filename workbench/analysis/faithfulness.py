"""How faithful an attribution is to the model, beside the same measure of random attributions.

Every measure perturbs features of a `Game` and looks whether the value changes as the attribution says. The random ones
are the attribution's own values at random places: the same values, the same sum, and nothing known of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from captum.metrics import infidelity as captum_infidelity
from numpy.typing import NDArray
from torch import Tensor

from workbench.analysis.games import Game
from workbench.errors import counted

Values = NDArray[np.float64]
STEPS = 20
"""Steps of a deletion or insertion curve where there are more features than that."""
GROUPS = 10
"""K of SaCo, as in the paper."""
PERTURBATIONS = 100
"""Random subsets for the infidelity."""
DRAWS = 30
"""Random attributions; where the values have no more orders than that, each order once."""
LEVEL = 0.05
"""An attribution separates from random ones if no more than this part of them is as good."""
_ALIKE = 1e-9


def curve(game: Game, values: Values, insert: bool = False) -> tuple[Values, Values]:
    """Fractions of the features that are gone, the highest attribution first, and the game's value at each.

    Petsiuk, Das and Saenko, RISE, arXiv 1806.07421; at most `STEPS` steps of equal size, but for rounding.

    Args:
        insert: features come instead of go.
    """
    order = np.argsort(-values, kind="stable")
    counts = np.unique(np.linspace(0, len(values), min(len(values), STEPS) + 1).round().astype(int))
    rank = np.empty(len(values), dtype=int)
    rank[order] = np.arange(len(values))
    touched = rank[None] < counts[:, None]
    return counts / len(values), game(torch.from_numpy(touched if insert else ~touched)).numpy()


def deletion(game: Game, values: Values) -> float:
    """Area under the deletion curve, in the value's unit: low where the features named first carry the value."""
    fractions, of_game = curve(game, values)
    return float(np.trapezoid(of_game, fractions))


def insertion(game: Game, values: Values) -> float:
    """Area under the insertion curve, in the value's unit: high where the features named first bring the value."""
    fractions, of_game = curve(game, values, insert=True)
    return float(np.trapezoid(of_game, fractions))


def infidelity(game: Game, values: Values) -> float:
    """E[(βIᵀφ − (f(x) − f(x − I)))²], with β the best scale of the attribution φ (captum, `normalize`).

    I switches each feature off with probability ½, in `PERTURBATIONS` subsets that are the same for every attribution.
    Yeh et al., On the (In)fidelity and Sensitivity of Explanations, arXiv 1901.09392.
    """
    generator = torch.Generator().manual_seed(0)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        off = torch.bernoulli(torch.full_like(inputs, 0.5), generator=generator)
        return off, inputs - off

    present = torch.ones(1, game.features, dtype=torch.float64)
    phi = torch.from_numpy(values).double().reshape(1, -1)
    measured = captum_infidelity(game, perturb, present, phi, n_perturb_samples=PERTURBATIONS, normalize=True)
    return float(measured)


def saco(game: Game, values: Values) -> float:
    """The salience-guided faithfulness coefficient, from −1 to 1 (Wu et al., arXiv 2404.01415, algorithm 1).

    Features are sorted by salience into K groups of equal size, G₁ to G_K. With s(G) the sum of a group's salience and
    d(G) = f(x) − f(x without G), F = Σᵢ﹤ⱼ ±(s(Gᵢ) − s(Gⱼ)) / Σᵢ﹤ⱼ |s(Gᵢ) − s(Gⱼ)|,
    with + where d(Gᵢ) ≥ d(Gⱼ), else −. Fewer features than K are groups of one; else sizes differ by at most one. NaN
    where all groups are alike.
    """
    groups = np.array_split(np.argsort(-values, kind="stable"), min(GROUPS, len(values)))
    present = np.ones((len(groups), len(values)), dtype=bool)
    for row, group in zip(present, groups, strict=True):
        row[group] = False
    drops = game.everything - game(torch.from_numpy(present)).numpy()
    salience = np.array([values[group].sum() for group in groups])
    first, second = np.triu_indices(len(groups), 1)
    weights = salience[first] - salience[second]
    total = np.abs(weights).sum()
    return float((np.where(drops[first] >= drops[second], 1, -1) * weights).sum() / total) if total else float("nan")


@dataclass(frozen=True)
class Measure:
    """A measure of faithfulness."""

    of: Callable[[Game, Values], float]
    better: Literal["lower", "higher"]
    definition: str


MEASURES = {
    "deletion": Measure(deletion, "lower", "area under the target as features go, the highest attribution first"),
    "insertion": Measure(insertion, "higher", "area under the target as features come, the highest attribution first"),
    "infidelity": Measure(
        infidelity, "lower", "mean squared error of the attribution, best scaled, for random subsets of features"
    ),
    "saco": Measure(saco, "higher", "salience-guided faithfulness coefficient, from -1 to 1"),
}


@dataclass(frozen=True)
class Compared:
    """A measure of an attribution beside that of random ones.

    Attributes:
        low, high: 95 % interval of the random attributions' values.
        p: the fraction of random attributions that do as well, the attribution itself counted as one of them.
        least_p: the smallest p that there could be.
        random_values: each.
    """

    name: str
    value: float
    mean: float
    low: float
    high: float
    p: float
    least_p: float
    random_values: tuple[float, ...] = field(repr=False)

    @property
    def separates(self) -> bool:
        """Whether the attribution does better than random ones do."""
        return self.p <= LEVEL

    @property
    def verdict(self) -> str:
        """In words."""
        if math.isnan(self.value):
            return "undefined: all groups of features have the same attribution"
        if self.separates:
            return "better than random"
        if self.least_p > LEVEL:
            count = len(self.random_values)
            if round(1 / self.least_p) > count:  # drawn, not all orders that there are
                return f"cannot separate from random: compared with only {counted(count, 'draw')}"
            orders = counted(count, "distinct order")
            return f"cannot separate from random: the values have only {orders}"
        return "does not separate from random"

    @property
    def mark(self) -> str:
        """The verdict in one sign: `*` better than random, `≈` not, `?` not to be told."""
        return "*" if self.separates else "?" if math.isnan(self.value) or self.least_p > LEVEL else "≈"

    def document(self) -> dict[str, Any]:
        """As plain JSON; NaN becomes null."""
        numbers = {"value": self.value, "random_mean": self.mean, "random_low": self.low, "random_high": self.high}
        return {
            **{name: None if math.isnan(number) else number for name, number in numbers.items()},
            "random_values": [None if math.isnan(number) else number for number in self.random_values],
            "better": MEASURES[self.name].better,
            "p": self.p,
            "separates_from_random": self.separates,
            "verdict": self.verdict,
        }


def faithfulness(game: Game, values: Values, draws: int = DRAWS, seed: int = 0) -> dict[str, Compared]:
    """Every measure of an attribution, beside the same of random ones.

    Args:
        values: one per feature of the game.
        draws: random attributions, unless the values have no more orders than that; then each order is one.
    """
    others, whole = random_attributions(values, draws, seed)
    return {name: _compared(name, game, values, others, whole) for name in MEASURES}


def random_attributions(values: Values, draws: int, seed: int) -> tuple[list[Values], bool]:
    """The values at random places; and whether these are all orders that there are, the given one among them."""
    if orders_of(values) <= draws:
        return [np.array(order) for order in _orders(sorted(values.tolist()))], True
    rng = np.random.default_rng(seed)
    return [rng.permutation(values) for _ in range(draws)], False


def orders_of(values: Values) -> int:
    """How many distinct orders the values have."""
    _, repeated = np.unique(values, return_counts=True)
    return math.factorial(len(values)) // math.prod(math.factorial(int(count)) for count in repeated)


def _orders(values: list[float]) -> Iterator[tuple[float, ...]]:
    """Each distinct order once; `itertools.permutations` would go through those that are alike, too."""
    if not values:
        yield ()
    for value in dict.fromkeys(values):
        rest = values.copy()
        rest.remove(value)
        yield from ((value, *order) for order in _orders(rest))


def _compared(name: str, game: Game, values: Values, others: list[Values], whole: bool) -> Compared:
    measure = MEASURES[name]
    value, drawn = measure.of(game, values), np.array([measure.of(game, other) for other in others])
    sign = 1 if measure.better == "higher" else -1
    as_good = int((sign * drawn >= sign * value - _ALIKE * max(1.0, abs(value))).sum())
    count = len(others) if whole else len(others) + 1
    p = 1.0 if math.isnan(value) else (as_good if whole else as_good + 1) / count
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Compared(
        name, value, float(drawn.mean()), float(low), float(high), p, 1 / count, tuple(float(one) for one in drawn)
    )
