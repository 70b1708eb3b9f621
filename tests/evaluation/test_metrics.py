from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data import masks
from workbench.data.loading import Expression
from workbench.evaluation.metrics import (
    BREAKDOWNS,
    GENERALISED,
    METRIC_NAMES,
    METRICS,
    applicable,
    breakdown,
    iou,
    summarise,
)
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


@settings(max_examples=1000, deadline=None)
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


def test_without_expressions_that_mean_nothing_there_are_no_metrics_of_them() -> None:
    frame = pd.DataFrame({"intersection": [1, 2], "union": [2, 2], "predicted_area": [1, 2]})
    assert set(summarise(frame)) == set(applicable(frame)) == set(METRICS) - set(GENERALISED)
    frame["no_target"] = [True, False]
    assert set(summarise(frame)) == set(METRICS) == set(METRIC_NAMES)


def row(**fields: Any) -> dict[str, Any]:
    plain = {"sentence": "dog", "kind": "attribute", "distractors": 0, "height": 10, "width": 10, "target_area": 5,
             "intersection": 1, "union": 2, "predicted_area": 1, "no_target": False}  # fmt: skip
    return plain | fields


def test_breakdowns_bin_by_their_stated_edges() -> None:
    assert set(BREAKDOWNS) == {"length", "kind", "size", "distractors"}
    words = [1, 2, 3, 5, 6, 10, 11, 30]
    frame = pd.DataFrame([row(sentence=" ".join("a" * n)) for n in words])
    assert breakdown(frame, "length")["bin"].tolist() == ["1–2 words", "3–5 words", "6–10 words", "over 10 words"]
    assert breakdown(frame, "length")["expressions"].tolist() == [2, 2, 2, 2]
    sizes = breakdown(pd.DataFrame([row(target_area=a) for a in (1, 2, 9, 10, 24, 25, 100, 0)]), "size")
    assert dict(zip(sizes["bin"], sizes["expressions"], strict=True)) == {
        "under 2 % of the image": 1, "2–10 %": 2, "10–25 %": 2, "over 25 %": 2
    }  # fmt: skip
    others = breakdown(pd.DataFrame([row(distractors=d) for d in (-1, 0, 1, 2, 3, 4, 9)]), "distractors")
    assert dict(zip(others["bin"], others["expressions"], strict=True)) == {"none": 1, "1": 1, "2–3": 2, "over 3": 2}
    kinds = pd.DataFrame([row(kind=k, intersection=i) for k, i in (("place", 0), ("attribute", 1), ("place", 2))])
    found = breakdown(kinds, "kind").set_index("bin")
    assert found["miou"].to_dict() == {"attribute": 0.5, "place": 0.5}
    assert found.loc["place", "expressions"] == 2


def test_a_breakdown_of_grefcoco_has_its_metrics_in_every_bin() -> None:
    frame = pd.DataFrame(
        [row(kind="place", no_target=True, intersection=0, union=0, predicted_area=0, target_area=0, distractors=-1),
         row(kind="attribute")]
    )  # fmt: skip
    kinds = breakdown(frame, "kind").set_index("bin")
    assert kinds["giou"].to_dict() == {"attribute": 0.5, "place": 1.0}
    assert breakdown(frame, "size")["bin"].tolist() == ["2–10 %", "nothing is meant"]
    assert breakdown(frame, "distractors")["bin"].tolist() == ["none", "nothing is meant"]
    assert breakdown(frame, "size").set_index("bin")["n_acc"].dropna().to_dict() == {"nothing is meant": 1.0}
