from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import EXHAUSTIVE, ROOT
from workbench.data import masks
from workbench.data.loading import Expression
from workbench.errors import ConfigError
from workbench.evaluation.metrics import applicable, iou, metrics, summarise
from workbench.evaluation.scoring import score

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
Mask = list[list[bool]]


def expression(truth: Mask, means_something: bool, number: int) -> Expression:
    height, width = len(truth), len(truth[0])
    ids = (7,) if means_something else ()
    rle = masks.encode(np.array(truth))
    return Expression("val", number, number, ids, number, "the dog", "a.jpg", height, width, "dog", 0, rle)


def reference(cases: list[tuple[Mask, Mask, bool]], no_target_area: int) -> dict[str, float]:
    """Every metric from its definition, pixel by pixel, in plain Python."""
    ious, over_all, total_i, total_u, ciou_i, ciou_u = [], [], 0, 0, 0, 0
    tp = fn = tn = fp = 0
    for truth, predicted, means_something in cases:
        pixels = [(t, p) for rows in zip(truth, predicted, strict=True) for t, p in zip(*rows, strict=True)]
        if sum(p for _, p in pixels) < no_target_area:
            pixels = [(t, False) for t, _ in pixels]
        both, either = sum(t and p for t, p in pixels), sum(t or p for t, p in pixels)
        area = sum(p for _, p in pixels)
        if means_something:
            total_i, total_u = total_i + both, total_u + either
            ciou_i, ciou_u = ciou_i + both, ciou_u + either
            ious.append(both / either if either else 1.0)
            over_all.append(ious[-1])
            tn, fp = tn + (area > 0), fp + (area == 0)
        else:
            over_all.append(1.0 if area == 0 else 0.0)
            ciou_u += area
            tp, fn = tp + (area == 0), fn + (area > 0)
    found: dict[str, float] = {"oiou": total_i / total_u if total_u else 1.0}
    if ious:
        found["miou"] = sum(ious) / len(ious)
        for x in THRESHOLDS:
            found[f"p@{x}"] = sum(i > x for i in ious) / len(ious)
            found[f"p>={x}"] = sum(i >= x for i in ious) / len(ious)
    if tp + fn:
        found["giou"] = sum(over_all) / len(over_all)
        found["ciou"] = ciou_i / ciou_u if ciou_u else 1.0
        found["n_acc"] = tp / (tp + fn)
        if tn + fp:
            found["t_acc"] = tn / (tn + fp)
    return found


@st.composite
def a_case(draw: st.DrawFn) -> tuple[Mask, Mask, bool]:
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))

    def mask() -> Mask:
        kind = draw(st.sampled_from(["empty", "full", "any", "any"]))
        if kind != "any":
            return [[kind == "full"] * width for _ in range(height)]
        return [[draw(st.booleans()) for _ in range(width)] for _ in range(height)]

    means_something = draw(st.booleans())
    truth = mask() if means_something else [[False] * width for _ in range(height)]
    return truth, (truth if draw(st.integers(0, 4)) == 0 else mask()), means_something


def frame_of(cases: list[tuple[Mask, Mask, bool]], no_target_area: int) -> pd.DataFrame:
    rows = [
        score(expression(truth, something, i), masks.encode(np.array(predicted)), no_target_area)
        for i, (truth, predicted, something) in enumerate(cases)
    ]
    return pd.DataFrame(rows)


@settings(max_examples=1000 if EXHAUSTIVE else 200, deadline=None)
@given(st.lists(a_case(), min_size=1, max_size=6), st.integers(0, 6))
def test_metrics_are_their_definitions(cases: list[tuple[Mask, Mask, bool]], no_target_area: int) -> None:
    found, expected = summarise(frame_of(cases, no_target_area)), reference(cases, no_target_area)
    assert found.keys() == expected.keys()
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, abs=1e-12), metric


def test_a_share_of_exactly_the_threshold_tells_the_two_precisions_apart() -> None:
    for part, threshold in ((5, 0.5), (6, 0.6), (7, 0.7), (8, 0.8), (9, 0.9)):
        found = summarise(pd.DataFrame({"intersection": [part], "union": [10], "predicted_area": [part]}))
        assert (found[f"p@{threshold}"], found[f"p>={threshold}"]) == (0.0, 1.0)


def test_two_empty_masks_agree() -> None:
    np.testing.assert_array_equal(iou([0, 0, 3], [0, 5, 3]), [1.0, 0.0, 1.0])


OF_GREFCOCO = {"giou", "ciou", "n_acc", "t_acc"}


def test_without_no_target_expressions_there_are_no_metrics_of_them() -> None:
    frame = pd.DataFrame({"intersection": [1, 2], "union": [2, 2], "predicted_area": [1, 2]})
    assert set(summarise(frame)) == set(applicable(frame)) == set(metrics) - OF_GREFCOCO - {"oiou_4_processes"}
    frame["no_target"] = [True, False]
    assert set(summarise(frame)) == set(metrics) - {"oiou_4_processes"}


def test_the_registry_says_what_each_metric_is() -> None:
    assert len(metrics) == 17
    for name, metric in metrics.items():
        assert metric.name == name
        assert (metric.direction, metric.unit) == ("higher", "fraction")
        assert metric.definition
        assert (metric.applies_to == "no_target") == (name in OF_GREFCOCO)
    assert [metrics[name].label for name in ("miou", "p@0.5", "p>=0.5")] == [
        "mIoU",
        "P@0.5 (IoU > 0.5)",
        "P@0.5 (IoU ≥ 0.5)",
    ]
    with pytest.raises(ConfigError, match=r"unknown metric 'mIoU' \(did you mean 'miou'\?\); known: oiou, miou"):
        metrics["mIoU"]


def test_every_metric_of_a_data_page_is_registered() -> None:
    page = (ROOT / "docs" / "data.md").read_text()
    for metric in ("oIoU", "mIoU", "gIoU", "cIoU", "N-acc", "T-acc"):
        assert metric in page
        assert metric in {known.label for known in metrics.values()}


def test_the_released_oiou_of_several_gpus_is_the_mean_of_their_ratios() -> None:
    rng = np.random.default_rng(5)
    union = rng.integers(20, 400, 10)
    frame = pd.DataFrame({"intersection": (union * rng.random(10)).astype(int), "union": union, "predicted_area": 1})
    order = np.random.default_rng(0).permutation(10).tolist()
    padded = [*order, *order[:2]]  # so that each of the 4 has 3
    ratios = []
    for process in range(4):
        shard = frame.iloc[padded[process::4]]
        ratios.append(shard["intersection"].sum() / shard["union"].sum())
    assert metrics["oiou_4_processes"].value(frame) == pytest.approx(np.mean(ratios), abs=1e-12)
    assert metrics["oiou_4_processes"].value(frame) != pytest.approx(metrics["oiou"].value(frame), abs=1e-3)
