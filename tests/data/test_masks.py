from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from workbench.data import masks
from workbench.errors import DataError


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_compressed_counts_are_read_as_pycocotools_writes_them(
    height: int, width: int, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    one, other = ((rng.random((height, width)) < share).astype(np.uint8) for _ in range(2))
    counts = masks.encode(one)
    assert counts == coco_mask.encode(np.asfortranarray(one))["counts"]
    assert masks.checked_counts(counts, height, width) == counts
    assert masks.to_rle({"size": [height, width], "counts": counts.decode()}, height, width) == counts
    np.testing.assert_array_equal(masks.decode(counts, height, width), one)
    both = masks.areas_of(counts, masks.encode(other), height, width)
    assert both == ((one & other).sum(), (one | other).sum())
    assert masks.area(counts, height, width) == one.sum()
    united = masks.decode(masks.union([counts, masks.encode(other)], height, width), height, width)
    np.testing.assert_array_equal(united, one | other)
    top, left, down, across = masks.box_of(counts, height, width)
    assert one.sum() == one[top : top + down, left : left + across].sum()
    if one.any():
        assert one[top, left : left + across].any()
        assert one[top : top + down, left + across - 1].any()


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=0, max_size=30), st.integers(1, 30), st.integers(1, 30))
def test_no_string_gets_to_the_decoder_that_does_not_add_up(text: str, height: int, width: int) -> None:
    try:
        counts = masks.checked_counts(text, height, width)
    except DataError:
        return
    assert masks.decode(counts, height, width).shape == (height, width)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_runs_of_no_length_change_no_area(one: list[int], other: list[int]) -> None:
    """pycocotools' own merging stops at two of them."""
    found, arrays = [], []
    for runs in (one, other):
        runs = [*runs, 36 - sum(runs)] if len(runs) % 2 else [*runs, 0, 36 - sum(runs)]
        flat = np.repeat(np.arange(len(runs)) % 2, runs)
        arrays.append(flat.reshape(6, 6).T)
        found.append(masks.to_rle({"size": [6, 6], "counts": runs}, 6, 6))
    both = masks.areas_of(found[0], found[1], 6, 6)
    assert both == ((arrays[0] & arrays[1]).sum(), (arrays[0] | arrays[1]).sum())
    np.testing.assert_array_equal(masks.decode(masks.union(found, 6, 6), 6, 6), arrays[0] | arrays[1])


def test_nothing_united_is_an_empty_mask() -> None:
    assert masks.area(masks.union([], 30, 40), 30, 40) == 0
    assert masks.box_of(masks.union([], 30, 40), 30, 40) == (0, 0, 0, 0)
    assert masks.area(masks.to_rle([], 30, 40), 30, 40) == 0


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3]], "a polygon of 3 numbers"),
        ([[1, 2, 3, "4", 5, 6]], "values that are not numbers"),
        ([[float("nan")] * 6], "non-finite numbers"),
        ([[0, 0, 10**9, 0, 5, 5]], "far outside the image of 30×40"),
        ([[0.0, 0.0, 39.0, 29.0] * 10_000] * 3, "outlines of 1,560,000 px or more"),
        ([5], "a polygon is a list of numbers"),
        ({"size": [30, 40], "counts": [1200, 1]}, "add up to 30×40"),
        ({"size": [30, 40], "counts": [-1, 1201]}, "add up to 30×40"),
        ({"size": [30, 40], "counts": [2**62, 2**62]}, "add up to 30×40"),
        ({"size": [40, 30], "counts": [1200]}, r"its size is \[40, 30\]"),
        ({"size": [30, 40], "counts": "no"}, "counts are damaged"),
        ({"size": [30, 40]}, "an object with size and counts"),
        ("text", "polygons, or an object"),
        (None, "polygons, or an object"),
    ],
)
def test_what_is_no_mask_is_said_to_be_none(segmentation: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        masks.to_rle(segmentation, 30, 40)


def test_an_image_beyond_all_measure_is_refused_before_anything_is_made_of_it() -> None:
    with pytest.raises(DataError, match="at most 67,108,864 in all are read"):
        masks.to_rle([], 10**6, 10**6)
