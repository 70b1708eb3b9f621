"""Measures of faithfulness on games whose values are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from workbench.analysis.faithfulness import (
    MEASURES,
    curve,
    deletion,
    faithfulness,
    infidelity,
    insertion,
    orders_of,
    random_attributions,
    saco,
)
from workbench.analysis.games import Game, activation_bytes, batch_within


def linear(weights: list[float], constant: float = 0.0) -> Game:
    vector = torch.tensor(weights, dtype=torch.float64)
    return Game(lambda presence: presence @ vector + constant, len(weights))


def test_the_areas_of_a_linear_game_are_those_of_its_sorted_sums() -> None:
    game = linear([4.0, 1.0, 2.0], constant=10)
    # Deleting 4, 2, 1 leaves 17, 13, 11, 10; inserting them makes 10, 14, 16, 17.
    fractions, values = curve(game, np.array([4.0, 1.0, 2.0]))
    np.testing.assert_allclose(fractions, [0, 1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(values, [17, 13, 11, 10])
    assert deletion(game, np.array([4.0, 1.0, 2.0])) == pytest.approx((17 / 2 + 13 + 11 + 10 / 2) / 3)
    assert insertion(game, np.array([4.0, 1.0, 2.0])) == pytest.approx((10 / 2 + 14 + 16 + 17 / 2) / 3)
    assert deletion(game, np.array([1.0, 3.0, 2.0])) == pytest.approx((17 / 2 + 16 + 14 + 10 / 2) / 3)


def test_the_infidelity_of_the_truth_is_nothing_at_any_scale() -> None:
    weights = [3.0, -1.0, 0.5, 2.0]
    assert infidelity(linear(weights), np.array(weights)) == pytest.approx(0, abs=1e-12)
    assert infidelity(linear(weights), 7 * np.array(weights)) == pytest.approx(0, abs=1e-12)
    # For φ orthogonal to all changes the best scale is 0, which leaves E[(Δf)²]; here Δf is I₁, φ sees I₂ alone.
    wrong = infidelity(linear([1.0, 0.0]), np.array([0.0, 1.0]))
    assert 0.2 < wrong < 0.5, "E[(I₁ − βI₂)²] with the best β is 3/8"


def test_saco_follows_its_formula() -> None:
    game = linear([3.0, 1.0, 2.0])
    assert saco(game, np.array([3.0, 1.0, 2.0])) == 1
    assert saco(game, np.array([-3.0, -1.0, -2.0])) == -1
    # Salience 3, 2, 1 of features whose drops are 3, 1, 2: the pairs weigh 1 (+), 2 (+) and 1 (−).
    assert saco(game, np.array([3.0, 2.0, 1.0])) == pytest.approx((1 + 2 - 1) / 4)
    assert math.isnan(saco(game, np.array([1.0, 1.0, 1.0])))
    many = linear([float(i) for i in range(25)])
    assert saco(many, np.arange(25.0)) == 1
    assert saco(many, -np.arange(25.0)) == -1


def test_the_truth_separates_from_random_and_noise_does_not() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=30)
    game = linear(weights.tolist())
    for name, compared in faithfulness(game, weights).items():
        assert compared.separates, name
        assert compared.verdict == "better than random"
        outside = compared.value < compared.low if MEASURES[name].better == "lower" else compared.value > compared.high
        assert outside, name
    separated = [
        compared.separates
        for seed in range(20)
        for compared in faithfulness(game, np.random.default_rng(seed + 1).normal(size=30)).values()
    ]
    assert np.mean(separated) < 0.15, "about 3 % of the draws do so by chance"


def test_a_measure_that_ignores_the_attribution_is_shown_as_such() -> None:
    flat = Game(lambda presence: torch.zeros(len(presence), dtype=torch.float64), 8)
    for name, compared in faithfulness(flat, np.arange(8.0)).items():
        if name != "saco":  # where nothing changes d(Gᵢ) ≥ d(Gⱼ) holds for all, so that it is 1 for anything
            assert compared.value == compared.mean == 0
        assert compared.verdict == "does not separate from random", name
        assert compared.document()["separates_from_random"] is False


@pytest.mark.parametrize(
    ("values", "orders"), [([1.0], 1), ([1.0, 2.0], 2), ([1.0, 2.0, 3.0], 6), ([5.0] + [0.0] * 17, 18)]
)
def test_few_orders_are_each_tried_once(values: list[float], orders: int) -> None:
    assert orders_of(np.array(values)) == orders
    drawn, whole = random_attributions(np.array(values), 30, 0)
    assert whole
    assert len({tuple(one) for one in drawn}) == len(drawn) == orders
    assert all(sorted(one) == sorted(values) for one in drawn)
    compared = faithfulness(linear(values), np.array(values))["deletion"]
    assert compared.least_p == compared.p == pytest.approx(1 / orders)
    assert f"cannot separate from random: the values have only {orders} distinct order" in compared.verdict


def test_four_values_have_enough_orders_to_tell() -> None:
    compared = faithfulness(linear([4.0, 3.0, 2.0, 1.0]), np.array([4.0, 3.0, 2.0, 1.0]))["deletion"]
    assert len(compared.random_values) == 24
    assert compared.p == pytest.approx(1 / 24)
    assert compared.separates


def test_a_document_is_json_also_of_undefined_measures() -> None:
    document = faithfulness(linear([1.0, 2.0]), np.array([1.0, 1.0]))["saco"].document()
    assert document["value"] is document["random_mean"] is None
    assert document["verdict"].startswith("undefined")


def test_a_game_asks_for_each_subset_once_and_never_for_too_many_together() -> None:
    asked: list[int] = []

    def value(presence: Tensor) -> Tensor:
        asked.append(len(presence))
        return presence.sum(dim=1)

    game = Game(value, 6, batch=7)
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (300, 6)))
    assert game(rows).tolist() == rows.sum(dim=1).tolist()
    distinct = len({tuple(row) for row in rows.tolist()})
    assert sum(asked) == game.evaluations == distinct
    assert max(asked) == 7
    game(rows)
    assert sum(asked) == distinct


def test_bytes_of_activations_are_those_that_are_kept() -> None:
    weight = torch.randn(100, 1000, requires_grad=True)
    x = torch.randn(1, 100, requires_grad=True)
    # exp keeps its output, 1×1000 floats; the product keeps x, and the weight, which is not counted.
    assert activation_bytes(lambda: (x @ weight).exp(), [weight]) == 4 * (1000 + 100)
    assert batch_within(10_000, 4_400) == 2
    assert batch_within(10, 4_400) == 1
    assert batch_within(10**12, 1) == 256
