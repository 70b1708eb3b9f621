from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from workbench.analysis.statistics import estimate, paired_difference, rank_correlation
from workbench.evaluation.metrics import metrics, summarise


def frame(seed: int, images: int = 60, run: str = "r", quality: float = 0.6) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), 3)
    union = rng.integers(50, 500, len(image))
    share = np.clip(rng.normal(quality, 0.15, images)[image] + rng.normal(0, 0.05, len(image)), 0, 1)
    found = {"image_id": image, "intersection": (share * union).astype(int), "union": union, "run": run}
    nothing = np.arange(len(image)) % 5 == 0
    found["intersection"][nothing] = 0
    found["predicted_area"] = np.where(rng.random(len(image)) < 0.3, 0, union)
    found["union"] = np.where(nothing, found["predicted_area"], union)
    return pd.DataFrame(found | {"no_target": nothing})


@pytest.mark.parametrize("metric", list(metrics))
def test_the_value_is_the_metric_and_lies_in_its_interval(metric: str) -> None:
    data = frame(0, quality=0.8)
    found = estimate(data, metric)
    assert found.value == pytest.approx(summarise(data, [metric])[metric], abs=1e-12)
    assert found.low < found.value < found.high


def test_the_interval_is_as_wide_as_images_drawn_one_by_one_make_it() -> None:
    data = frame(1)
    rng = np.random.default_rng(5)
    groups = [group for _, group in data.groupby("image_id")]
    drawn = [summarise(pd.concat([groups[i] for i in rng.integers(len(groups), size=60)]))["miou"] for _ in range(400)]
    found = estimate(data, "miou")
    assert found.high - found.low == pytest.approx(
        float(np.quantile(drawn, 0.975) - np.quantile(drawn, 0.025)), rel=0.15
    )
    alone = estimate(data.assign(image_id=range(len(data))), "miou")
    assert found.high - found.low > 1.3 * (alone.high - alone.low), "an image's expressions are alike"


def test_seeds_are_averaged() -> None:
    one, two = frame(0, run="a"), frame(0, run="b", quality=0.8)
    both = estimate(pd.concat([one, two]), "oiou")
    assert both.value == pytest.approx((summarise(one)["oiou"] + summarise(two)["oiou"]) / 2, abs=1e-12)


def test_a_paired_difference_is_surer_than_its_parts() -> None:
    base = frame(2)
    better = base.assign(intersection=np.minimum(base["intersection"] + 10, base["union"]))
    found = paired_difference(better, base, "oiou")
    assert found.value == pytest.approx(summarise(better)["oiou"] - summarise(base)["oiou"], abs=1e-12)
    assert 0 < found.low < found.value < found.high
    assert found.high - found.low < (estimate(base, "oiou").high - estimate(base, "oiou").low) / 3
    with pytest.raises(ValueError, match="same images"):
        paired_difference(better[better["image_id"] > 0], base, "oiou")


def test_the_same_data_give_the_same_interval() -> None:
    assert estimate(frame(3), "p@0.7") == estimate(frame(3), "p@0.7")


def test_a_draw_without_what_is_counted_counts_for_nothing() -> None:
    """One image of three holds the only expression that means nothing; many draws miss it."""
    rows = {"image_id": [1, 2, 3], "intersection": [0, 1, 3], "union": [5, 2, 4], "predicted_area": [5, 2, 4],
            "no_target": [True, False, False]}  # fmt: skip
    missed = pd.DataFrame(rows)
    found = estimate(missed, "n_acc")
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    answered = missed.assign(predicted_area=[0, 2, 4], union=[0, 2, 4])
    found = estimate(answered, "n_acc")
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    difference = paired_difference(answered, missed, "n_acc")
    assert (difference.value, difference.low, difference.high) == (1.0, 1.0, 1.0)


def test_seeds_that_differ_widen_the_interval() -> None:
    seeds = pd.concat([frame(4, run=f"r{i}", quality=q).assign(seed=i) for i, q in enumerate((0.4, 0.5, 0.9))])
    values = np.array([summarise(one)["miou"] for _, one in seeds.groupby("seed")])
    found = estimate(seeds, "miou")
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    # Nearly all of the variance is between seeds, so it is nearly Student's interval of three values.
    reach = 4.302653 * values.std(ddof=1) / 3**0.5
    assert found.low == pytest.approx(max(0.0, values.mean() - reach), abs=0.02)
    assert found.high == 1.0  # no metric goes further
    alike = pd.concat([frame(4, run=f"r{i}").assign(seed=i) for i in range(3)])
    one, same = estimate(frame(4), "miou"), estimate(alike, "miou")
    assert (same.value, same.low, same.high) == pytest.approx((one.value, one.low, one.high), abs=1e-9)


def test_a_difference_is_between_the_same_seeds() -> None:
    def runs(setting: str, gain: float, order: list[int]) -> pd.DataFrame:
        each = {seed: frame(seed, run=f"{setting}/seed{seed}").assign(seed=seed) for seed in (2, 10, 30)}
        for one in each.values():
            one["intersection"] = np.minimum(one["intersection"] + gain, one["union"])
        return pd.concat([each[seed] for seed in order])

    base, better = runs("base", 0, [2, 10, 30]), runs("better", 10, [30, 2, 10])
    found = paired_difference(better, base, "miou")
    by_seed = [
        summarise(better[better["seed"] == seed])["miou"] - summarise(base[base["seed"] == seed])["miou"]
        for seed in (2, 10, 30)
    ]
    assert found.value == pytest.approx(np.mean(by_seed), abs=1e-12)
    spread = np.std(by_seed, ddof=1) / 3**0.5
    assert 0 < found.low < found.value - spread
    with pytest.raises(ValueError, match="same seeds"):
        paired_difference(better[better["seed"] > 2], base, "miou")


def test_a_rank_correlation_is_spearman_s_and_its_interval_is_over_images() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y = x + rng.normal(size=300)
    images = np.arange(300)
    found = rank_correlation(x, y, images)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low < found.value < found.high
    z = np.arctanh(found.value)
    theory = np.tanh([z - 1.96 / 297**0.5, z + 1.96 / 297**0.5])  # Fisher's, of single expressions
    assert (found.low, found.high) == pytest.approx(theory, abs=0.05)
    # Each image ten times over tells no more than once.
    again = rank_correlation(np.repeat(x, 10), np.repeat(y, 10), np.repeat(images, 10))
    assert again.value == pytest.approx(found.value, abs=1e-3)
    assert again.high - again.low == pytest.approx(found.high - found.low, rel=0.02)
    assert rank_correlation(-x, y, images).high < 0
    nothing = rank_correlation(rng.normal(size=300), y, images)
    assert nothing.low < 0 < nothing.high


def test_rank_correlations_differ_from_each_other_and_of_a_constant_there_is_none() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=200)
    x, noise, images = y + 0.5 * rng.normal(size=200), rng.normal(size=200), np.arange(200)
    apart = rank_correlation(x, y, images, noise)
    assert apart.low > 0
    assert apart.value == pytest.approx(stats.spearmanr(x, y).statistic - stats.spearmanr(noise, y).statistic)
    same = rank_correlation(x, y, images, x)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert np.isnan(rank_correlation(np.ones(200), y, images).value)
    assert np.isnan(rank_correlation(x, y, np.zeros(200, int)).value), "of one image there is no interval"
    x[:50] = np.nan
    assert rank_correlation(x, y, images).value == pytest.approx(stats.spearmanr(x[50:], y[50:]).statistic)
