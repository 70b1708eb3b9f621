"""What is wrong with, or odd about, a data set: every image decoded, every expression checked."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workbench.data.images import read_pixels
from workbench.data.tables import Progress, ReferData
from workbench.errors import DataError

SHOWN = 5
BOX_MARGIN = 1.0
"""Pixels by which a box may reach over the edge: COCO's are rounded."""
Lengths = Callable[[Sequence[str]], Sequence[int]]
"""How many tokens each sentence takes, whole."""


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        wrong: False for what is only unusual: it is in the data as published, or harmless.
        examples: every case, in words.
    """

    what: str
    count: int
    wrong: bool
    examples: tuple[str, ...]

    def text(self, most: int | None = SHOWN) -> str:
        """One line, with at most `most` examples."""
        more = "; …" if most is not None and self.count > most else ""
        return f"{self.what}: {self.count:,} ({'; '.join(self.examples[:most])}{more})"


def check(
    data: ReferData, lengths: Lengths | None = None, max_tokens: int = 0, progress: Progress | None = None
) -> list[Finding]:
    """Check everything in a data set.

    Args:
        lengths: of a text encoder's tokenizer; without it, sentences' lengths are not checked.
        max_tokens: the most tokens that fit, [CLS] and [SEP] included.
        progress: called with (images decoded, images in all).
    """
    findings = [
        _finding("broken or missing images", True, _broken_images(data, progress)),
        _finding("empty masks", True, _empty_masks(data)),
        _finding("boxes that reach outside their image", False, _boxes_outside(data)),
        _finding("expressions without words", True, _wordless(data)),
        _finding("sentence ids that occur twice", False, _twice(data, "sent_id")),
        _finding("expressions on several splits", True, _on_several_splits(data, "sent_id", "expression")),
        _finding("referents on several splits", True, _on_several_splits(data, "ref_id", "referent")),
        _finding("images that several splits share", False, _shared_images(data)),
    ]
    if lengths is not None:
        over = _over_limit(data, lengths, max_tokens)
        findings.append(_finding(f"sentences of more than {max_tokens} tokens, which are cut", False, over))
    return [finding for finding in findings if finding.count]


def _finding(what: str, wrong: bool, examples: Iterable[str]) -> Finding:
    all_examples = list(examples)
    return Finding(what, len(all_examples), wrong, tuple(all_examples))


def _used(data: ReferData, column: str) -> list[int]:
    rows: list[int] = np.sort(pc.unique(data.expressions[column]).to_numpy()).tolist()
    return rows


def _broken_images(data: ReferData, progress: Progress | None) -> list[str]:
    rows = _used(data, "image_row")
    heights, widths = data.images["height"], data.images["width"]

    def look(row: int) -> str | None:
        try:
            read_pixels(data.image_file(row), (heights[row].as_py(), widths[row].as_py()))
        except DataError as error:
            return str(error)
        return None

    broken = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, problem in enumerate(pool.map(look, rows), start=1):
            if problem is not None:
                broken.append(problem)
            if progress and (done % 100 == 0 or done == len(rows)):
                progress(done, len(rows))
    return broken


def _targets(data: ReferData) -> list[int]:
    return sorted(set(pc.list_flatten(data.expressions["object_rows"]).to_pylist()))


def _empty_masks(data: ReferData) -> Iterable[str]:
    areas, ids = data.objects["area"], data.objects["ann_id"]
    return [f"annotation {ids[row]}" for row in _targets(data) if areas[row].as_py() == 0]


def _boxes_outside(data: ReferData) -> Iterable[str]:
    sizes = {
        image_id: (height, width)
        for image_id, height, width in zip(
            *(data.images[name].to_pylist() for name in ("image_id", "height", "width")), strict=True
        )
    }
    targets = data.objects.take(pa.array(_targets(data), pa.int64()))
    for ann_id, image_id, box in zip(
        *(targets[name].to_pylist() for name in ("ann_id", "image_id", "box")), strict=True
    ):
        x, y, across, down = box
        height, width = sizes[image_id]
        over = max(-x, -y, x + across - width, y + down - height)
        if not over <= BOX_MARGIN and not np.isnan(x):
            yield f"annotation {ann_id} by {over:.1f} px"


def _wordless(data: ReferData) -> Iterable[str]:
    for sent_id, sentence in zip(data.expressions["sent_id"], data.expressions["sentence"], strict=True):
        if not sentence.as_py().strip():
            yield f"sent_id {sent_id}"


def _twice(data: ReferData, column: str) -> Iterable[str]:
    return (f"{column} {value}" for value, count in Counter(data.expressions[column].to_pylist()).items() if count > 1)


def _splits_of(data: ReferData, column: str) -> dict[Hashable, list[str]]:
    splits_by_value: dict[Hashable, dict[str, None]] = defaultdict(dict)
    for value, split in zip(data.expressions[column].to_pylist(), data.expressions["split"].to_pylist(), strict=True):
        splits_by_value[value][split] = None
    return {value: list(splits) for value, splits in splits_by_value.items() if len(splits) > 1}


def _on_several_splits(data: ReferData, column: str, what: str) -> Iterable[str]:
    return (f"{what} {value} on {' and '.join(splits)}" for value, splits in _splits_of(data, column).items())


def _shared_images(data: ReferData) -> Iterable[str]:
    names = dict(zip(data.images["image_id"].to_pylist(), data.images["file_name"].to_pylist(), strict=True))
    return (f"{names[image_id]} on {' and '.join(splits)}" for image_id, splits in _splits_of(data, "image_id").items())


def _over_limit(data: ReferData, lengths: Lengths, max_tokens: int) -> Iterable[str]:
    sentences = data.expressions["sentence"].to_pylist()
    ids = data.expressions["sent_id"].to_pylist()
    for start in range(0, len(sentences), 1000):
        part = sentences[start : start + 1000]
        for sent_id, length in zip(ids[start : start + 1000], lengths(part), strict=True):
            if length > max_tokens:
                yield f"sent_id {sent_id} with {length}"
