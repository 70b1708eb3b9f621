"""Comparisons against scipy, statsmodels and simulated studies, whose truth is known."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from tests import stored
from tests.conftest import ROOT
from workbench.analysis.comparison import Comparison, PairingError, compare, holm, of_cells
from workbench.analysis.statistics import estimate
from workbench.evaluation.metrics import metrics
from workbench.paper.verdicts import judge, standings

Cells = NDArray[np.float64]
PAGE = ROOT / "docs" / "tables.md"


def runs(seeds: list[int], draw: int, images: int = 12) -> pd.DataFrame:
    frames = [
        stored.expressions(["val"], draw + seed, images=images).assign(seed=seed, run=f"s/{seed}") for seed in seeds
    ]
    return pd.concat(frames, ignore_index=True)


def study(rng: np.random.Generator, seeds: int, effects: tuple[float, float, float], images: int = 100) -> Cells:
    """Differences without a true one: seeds', images' and what is left, with these deviations."""
    of_seed, of_image, rest = effects
    noise = rest * rng.normal(size=(seeds, images))
    return of_seed * rng.normal(size=(seeds, 1)) + of_image * rng.normal(size=(1, images)) + noise


def frame_of(scores: Cells) -> pd.DataFrame:
    """Expressions with these IoUs, seeds×images, one in each image."""
    seed, image = (part.ravel() for part in np.indices(scores.shape))
    area = 100_000
    return pd.DataFrame(
        {
            "seed": seed, "run": [f"run {one}" for one in seed], "image_id": image, "no_target": False,
            "intersection": (scores.ravel() * area).round().astype(int), "union": area, "predicted_area": area,
        }
    )  # fmt: skip


def coverage_of_values(seeds: int, effects: tuple[float, float, float], studies: int) -> float:
    rng = np.random.default_rng(13)
    intervals = [estimate(frame_of(0.5 + study(rng, seeds, effects)), "miou") for _ in range(studies)]
    return sum(one.low <= 0.5 <= one.high for one in intervals) / studies


def coverage(seeds: int, effects: tuple[float, float, float], studies: int) -> float:
    rng = np.random.default_rng(7)
    intervals = [of_cells(study(rng, seeds, effects)).interval for _ in range(studies)]
    return sum(one.low <= 0 <= one.high for one in intervals) / studies


def errors_of_tables(
    seeds: int, effects: tuple[float, float, float], tables: int, p: Callable[[Comparison], float], tests: int = 16
) -> float:
    """The fraction of tables of which at least one difference is called significant, though none is."""
    rng = np.random.default_rng(11)
    wrong = 0
    for _ in range(tables):
        wrong += min(holm([p(of_cells(study(rng, seeds, effects, 60))) for _ in range(tests)])) < 0.05
    return wrong / tables


def p_of_the_tests(found: Comparison) -> float:
    return found.p


def p_of_satterthwaite(found: Comparison) -> float:
    return float(2 * stats.t.sf(abs(found.value) / found.error, found.freedom))


@pytest.mark.parametrize("metric", ["miou", "oiou", "p@0.5"])
def test_the_value_is_the_mean_over_seeds_of_the_metrics_difference(metric: str) -> None:
    ours, theirs = runs([1, 2, 3], 100), runs([1, 2, 3], 200)
    expected = [
        metrics[metric].value(ours[ours["seed"] == seed]) - metrics[metric].value(theirs[theirs["seed"] == seed])
        for seed in (1, 2, 3)
    ]
    assert compare(ours, theirs, metric).value == pytest.approx(np.mean(expected), abs=1e-12)


def test_one_seed_is_a_paired_t_test_over_images() -> None:
    cells = np.random.default_rng(0).normal(0.02, 0.1, (1, 40))
    found, expected = of_cells(cells), stats.ttest_1samp(cells[0], 0)
    interval = expected.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    assert found.freedom == 39
    assert not found.testable


def test_where_images_are_alike_it_is_a_paired_t_test_over_seeds() -> None:
    seeds = np.random.default_rng(1).normal(0.02, 0.01, 5)
    found, expected = of_cells(np.repeat(seeds[:, None], 30, axis=1)), stats.ttest_1samp(seeds, 0)
    interval = expected.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(expected.pvalue)
    p, *_ = ttost_paired(seeds, np.zeros(5), -0.03, 0.03)
    assert found.p_equivalent(0.03) == pytest.approx(p)


def test_the_variance_is_that_of_crossed_random_effects() -> None:
    """Mean squares by hand, from the sums of a two-way table without repetition."""
    cells = study(np.random.default_rng(3), 5, (0.05, 0.1, 0.1), 40)
    total = ((cells - cells.mean()) ** 2).sum()
    of_seeds = 40 * ((cells.mean(1) - cells.mean()) ** 2).sum()
    of_images = 5 * ((cells.mean(0) - cells.mean()) ** 2).sum()
    rest = (total - of_seeds - of_images) / (4 * 39)
    assert of_cells(cells).error == pytest.approx(math.sqrt((of_seeds / 4 + of_images / 39 - rest) / 200))


def test_holm_is_that_of_statsmodels() -> None:
    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.5], [0.001, 0.001, 0.9], [0.2, 0.6, 0.7, 0.05]):
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([]) == []


def test_pairs_that_are_no_pairs_are_refused() -> None:
    ours, theirs = runs([1, 2], 100), runs([1, 2], 200)
    shuffled = theirs.sample(frac=1, random_state=0).reset_index(drop=True)
    with pytest.raises(PairingError, match="seed 1: row 0 is not the same expression"):
        compare(ours, shuffled, "miou")
    measured = ["intersection", "union", "target_area", "predicted_area", "iou"]
    torn = theirs.copy()  # the keys stay in order, what was measured does not
    torn.loc[torn["seed"] == 1, measured] = theirs.loc[theirs["seed"] == 1, measured].to_numpy()[::-1]
    with pytest.raises(PairingError, match="target_area"):
        compare(ours, torn, "miou")
    with pytest.raises(PairingError, match="same seeds on both sides, not 1, 2 and 1"):
        compare(ours, theirs[theirs["seed"] == 1], "miou")
    with pytest.raises(PairingError, match="cannot be paired"):
        compare(ours, theirs.iloc[1:], "miou")
    with pytest.raises(PairingError, match="no seed that both sides have"):
        compare(ours.iloc[:0], theirs, "miou")


def test_predictions_without_a_seed_are_the_partner_of_each_seed() -> None:
    ours, model = runs([1, 2, 3], 100), runs([7], 300).drop(columns=["seed", "run"])
    found = compare(ours, model, "miou")
    assert found.seeds == 3
    assert found.value == pytest.approx(-compare(model, ours, "miou").value)


def test_intervals_cover_what_they_should() -> None:
    assert 0.92 <= coverage(5, (0.01, 0.1, 0.2), 400) <= 0.98


@pytest.mark.exhaustive
def test_intervals_of_a_thousand_studies_cover_what_they_should_and_what_the_page_says() -> None:
    rows = re.findall(r"^\| ([\d., ]+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == 5
    for effects, *said in rows:
        seed, image, rest = map(float, effects.split(", "))
        covered = [coverage(seeds, (seed, image, rest), 1000) for seeds in (5, 3, 2)]
        assert 0.93 <= covered[0] <= 0.97
        # By rounding alone; another numpy may draw a study or two otherwise.
        assert [100 * one for one in covered] == pytest.approx([float(one) for one in said], abs=0.3)


@pytest.mark.exhaustive
def test_intervals_of_single_values_cover_what_the_page_says() -> None:
    (said,) = re.findall(r"with five seeds it covers (\d+) to (\d+) %, with three (\d+) to (\d+) %", PAGE.read_text())
    small = [(0.01, 0.1, 0.2), (0.01, 0.1, 0.05), (0.03, 0.1, 0.1), (0.02, 0.05, 0.1)]
    for seeds, low, high in ((5, *said[:2]), (3, *said[2:])):
        covered = [100 * coverage_of_values(seeds, effects, 1000) for effects in small]
        assert [min(covered), max(covered)] == pytest.approx([float(low), float(high)], abs=1)


def test_without_a_difference_few_tables_have_a_star() -> None:
    assert errors_of_tables(5, (0.03, 0.1, 0.1), 40, p_of_the_tests) <= 0.05


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("seeds", "effects"),
    itertools.product((3, 5), [(0.01, 0.1, 0.2), (0.03, 0.1, 0.1), (0.05, 0.05, 0.05), (0.01, 0.1, 0.05)]),
)
def test_of_a_thousand_tables_without_a_difference_few_have_a_star(
    seeds: int, effects: tuple[float, float, float]
) -> None:
    assert errors_of_tables(seeds, effects, 1000, p_of_the_tests) <= 0.05


@pytest.mark.exhaustive
def test_with_satterthwaites_degrees_of_freedom_as_many_would_have_a_star_as_the_page_says() -> None:
    (said,) = re.findall(r"up to (\d+) %\nwith three seeds and (\d+) % with five", PAGE.read_text())
    found = [errors_of_tables(seeds, (0.05, 0.05, 0.05), 1000, p_of_satterthwaite) for seeds in (3, 5)]
    assert [100 * one for one in found] == pytest.approx([float(one) for one in said], abs=1)


def test_what_is_said_to_be_detectable_is_detected_four_times_in_five() -> None:
    rng, effects = np.random.default_rng(5), (0.02, 0.02, 0.02)
    error = math.sqrt(0.02**2 / 5 + 0.02**2 / 100 + 0.02**2 / 500)  # of the mean of such a study
    typical = of_cells(study(rng, 5, effects))
    size = typical.detectable() / typical.error * error
    assert 0.7 <= np.mean([of_cells(study(rng, 5, effects) + size).p < 0.05 for _ in range(300)]) <= 0.9


def test_a_judgement_says_what_is_known() -> None:
    rng, small = np.random.default_rng(2), (0.001, 0.01, 0.01)
    table = {
        "ahead": of_cells(study(rng, 5, small) + 0.05),
        "same": of_cells(study(rng, 5, small)),
        "unclear": of_cells(study(rng, 5, (0.05, 0.1, 0.1))),
        "one seed": of_cells(study(rng, 1, small) + 0.05),
    }
    found, family = judge(table, 0.01)
    assert {name: one.verdict for name, one in found.items()} == {
        "ahead": "different", "same": "equivalent", "unclear": "inconclusive", "one seed": "not tested",
    }  # fmt: skip
    assert (family.tests, family.untested) == (3, 1)


def test_nobody_stands_out_where_all_are_alike_or_seeds_are_few() -> None:
    seeds = [1, 2, 3, 4, 5, 6]
    same, better = runs(seeds, 100), runs(seeds, 100)
    better["intersection"] = better["union"]
    alike = {"a": same, "b": runs(seeds, 500)}
    assert standings("miou", {"a": 0.3, "b": 0.31}, alike) == {}
    three = {"a": same, "b": better, "c": better}
    assert standings("miou", {"a": 0.3, "b": 1.0, "c": 1.0}, three) == {"b": "best", "c": "near"}
    two = {name: part[part["seed"] < 3] for name, part in three.items()}
    assert standings("miou", {"a": 0.3, "b": 1.0, "c": 1.0}, two) == {}
