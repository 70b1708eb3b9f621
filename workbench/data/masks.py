"""Masks as COCO writes them, checked before any of pycocotools' C code reads them, and decoded when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from workbench.errors import DataError, shown

MOST_PIXELS = 2**26
"""The most pixels of an image, 8192×8192; more is treated as damage."""
LONGEST_OUTLINE = 1_000_000
"""Pixels along the edges of an annotation's polygons: rasterising takes about a hundred bytes for each."""
POINTS = 6
"""Numbers in the smallest polygon; shorter ones enclose nothing and are left out."""


def to_rle(segmentation: Any, height: int, width: int) -> bytes:
    """COCO's compressed RLE counts of polygons, plain RLE or compressed RLE; overlapping parts are united.

    Args:
        segmentation: a list of polygons [x, y, x, y, …] in pixels, or an object with size [height, width] and counts.

    Raises:
        DataError: it is none of these, lies far outside height×width, or its counts do not add up to the image.
    """
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise DataError(f"an image of {height}×{width} pixels; at most {MOST_PIXELS:,} in all are read")
    if isinstance(segmentation, list):
        return _of_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise DataError(f"segmentation: polygons, or an object with size and counts, not {shown(segmentation)}")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise DataError(f"segmentation: its size is {shown(size)}, the image's {shown([height, width])}")
    if isinstance(counts, str | bytes):
        return checked_counts(counts, height, width)
    if not isinstance(counts, list):
        raise DataError(f"segmentation: counts are a string or a list of numbers, not {shown(counts)}")
    runs = _numbers(counts, "counts")
    if (runs < 0).any() or runs.sum() != height * width or (runs != runs.round()).any():
        raise DataError(f"segmentation: counts are whole numbers that add up to {height}×{width}")
    rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return _canonical(bytes(rle["counts"]), runs, height, width)


def decode(counts: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """A mask of zeros and ones, height×width, from checked counts."""
    return np.asarray(coco_mask.decode({"size": [height, width], "counts": counts}))


def union(parts: Sequence[bytes], height: int, width: int) -> bytes:
    """The counts of the union of several masks; of no masks, those of an empty one."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        nothing = {"size": [height, width], "counts": [height * width]}
        return bytes(coco_mask.frPyObjects(nothing, height, width)["counts"])
    merged = coco_mask.merge([{"size": [height, width], "counts": part} for part in parts])
    return bytes(merged["counts"])


def encode(mask: NDArray[Any]) -> bytes:
    """Compressed RLE counts of an array height×width, where everything that is not zero belongs to the mask."""
    return bytes(coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8))["counts"])


def area(counts: bytes, height: int, width: int) -> int:
    """Pixels of a mask."""
    return int(coco_mask.area({"size": [height, width], "counts": counts}))


def areas_of(predicted: bytes, ground_truth: bytes, height: int, width: int) -> tuple[int, int]:
    """Pixels of the intersection and of the union, exactly, without decoding either."""
    pair = [{"size": [height, width], "counts": counts} for counts in (predicted, ground_truth)]
    both, either = (int(coco_mask.area(coco_mask.merge(pair, intersect=intersect))) for intersect in (True, False))
    return both, either


def box_of(counts: bytes, height: int, width: int) -> tuple[int, int, int, int]:
    """The smallest box round a mask: top, left, height, width; all zero for an empty one."""
    x, y, across, down = (int(v) for v in coco_mask.toBbox({"size": [height, width], "counts": counts}))
    return y, x, down, across


def checked_counts(counts: str | bytes, height: int, width: int) -> bytes:
    """The counts in their canonical form; DataError where they are damaged, which pycocotools would not notice."""
    try:
        raw = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        raise DataError("segmentation: counts are not a compressed RLE") from None
    runs = _runs(raw)
    if runs is None or (runs < 0).any() or runs.sum() != height * width:
        raise DataError(f"segmentation: counts are damaged; they do not add up to {height}×{width}")
    return _canonical(raw, runs, height, width)


def _canonical(counts: bytes, runs: NDArray[Any], height: int, width: int) -> bytes:
    """Counts without runs of length zero in their middle, at which pycocotools' merging would stop."""
    return counts if (runs[1:] > 0).all() else encode(decode(counts, height, width))


def _runs(raw: bytes) -> NDArray[np.int64] | None:
    """Run lengths of a compressed RLE: groups of 5 bits and a continuation bit, as differences from two runs before."""
    digits = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if digits.size == 0 or (digits < 0).any() or (digits > 63).any() or digits[-1] & 32:
        return None
    last = np.flatnonzero((digits & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:  # a run does not need more than 32 bits
        return None
    place = np.arange(digits.size) - np.repeat(first, lengths)
    values = np.add.reduceat((digits & 31) << (5 * place), first)
    negative = (digits[last] & 16) != 0
    values[negative] -= np.int64(1) << (5 * lengths[negative])
    # The third run and all after the first two are stored as differences from the run two before.
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values


def _of_polygons(polygons: list[Any], height: int, width: int) -> bytes:
    used_polygons, outline = [], 0.0
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise DataError(f"segmentation: a polygon is a list of numbers x, y, x, y, …, not {shown(polygon)}")
        points = _numbers(polygon, "a polygon")
        if len(points) % 2:
            raise DataError(f"segmentation: a polygon of {len(points)} numbers; they come in pairs x, y")
        if len(points) < POINTS:
            continue
        # Rasterising walks along every edge, so one that leads far away would take all memory.
        x, y = points[::2], points[1::2]
        if not (x.min() >= -width and x.max() <= 2 * width and y.min() >= -height and y.max() <= 2 * height):
            raise DataError(f"segmentation: a polygon reaches far outside the image of {height}×{width}")
        edges = np.abs(np.diff(points.reshape(-1, 2), axis=0, append=points[None, :2])).max(axis=1)
        outline += float(edges.sum())
        if outline > LONGEST_OUTLINE:
            raise DataError(f"segmentation: outlines of {outline:,.0f} px or more")
        used_polygons.append(polygon)
    if not used_polygons:
        return union([], height, width)
    rles = coco_mask.frPyObjects(used_polygons, height, width)
    return bytes((rles[0] if len(rles) == 1 else coco_mask.merge(rles))["counts"])


def _numbers(values: list[Any], what: str) -> NDArray[np.float64]:
    if not set(map(type, values)) <= {int, float}:
        raise DataError(f"segmentation: {what} holds values that are not numbers")
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        numbers = np.array([np.inf])
    if not np.isfinite(numbers).all():
        raise DataError(f"segmentation: {what} holds non-finite numbers")
    return numbers
