from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.training.metrics import METRICS, iou, summarise

counts = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500)), min_size=1, max_size=30)


@given(counts)
def test_metrics_are_their_definitions(areas: list[tuple[int, int, int]]) -> None:
    rows = [(i, i + a + b) for i, a, b in areas]
    found = summarise(pd.DataFrame(rows, columns=["intersection", "union"]))
    each = [i / u if u else 1.0 for i, u in rows]
    total = sum(u for _, u in rows)
    assert found["oiou"] == pytest.approx(sum(i for i, _ in rows) / total if total else 1.0, abs=1e-12)
    assert found["miou"] == pytest.approx(sum(each) / len(each), abs=1e-12)
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
        assert found[f"p@{threshold}"] == pytest.approx(sum(v > threshold for v in each) / len(each), abs=1e-12)
    assert tuple(found) == METRICS


def test_precision_is_strict_at_its_threshold() -> None:
    assert summarise(pd.DataFrame({"intersection": [1], "union": [2]}))["p@0.5"] == 0.0


def test_two_empty_masks_agree() -> None:
    np.testing.assert_array_equal(iou([0, 0, 3], [0, 5, 3]), [1.0, 0.0, 1.0])
