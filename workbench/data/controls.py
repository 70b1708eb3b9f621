"""Controls of what words do: expressions with the words of other images, or with none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from workbench.data.loading import Expressions
from workbench.errors import DataError


def words_of_other_images(images: Sequence[int] | NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """For each expression the index of the one whose words it gets: a permutation in which no image keeps words.

    Expressions are put in a random order in which those of an image stay together, and each takes the words of the
    one that stands as many places later as the most spoken-of image has expressions.

    Args:
        images: of each expression, the id of its image.

    Raises:
        DataError: one image has more than half of all expressions, so there is no such permutation.
    """
    _, image, counts = np.unique(np.asarray(images), return_inverse=True, return_counts=True)
    most = int(counts.max(initial=0))
    if 2 * most > len(image):
        raise DataError("words cannot be exchanged among images: one image has more than half of all expressions")
    rng = np.random.default_rng(seed)
    rank, within = rng.permutation(len(counts)), rng.permutation(len(image))
    order = within[np.argsort(rank[image[within]], kind="stable")]
    source = np.empty(len(image), np.int64)
    source[order] = np.roll(order, -most)
    return source


def with_words_of_other_images(expressions: Expressions, seed: int) -> Expressions:
    """The same expressions, each with the words of one about another image, drawn by a seed."""
    written = [expression.sentence for expression in expressions]
    source = words_of_other_images(expressions.column("image_id"), seed)
    return expressions.with_sentences([written[index] for index in source])


def asked_words(
    expressions: Expressions, words: Literal["own", "shuffled", "dropped"]
) -> dict[tuple[int, int], str] | None:
    """The words that a model is asked, by ref_id and sent_id, the same for every run; None for the expressions' own."""
    if words == "own":
        return None
    keys = list(zip(expressions.column("ref_id").tolist(), expressions.column("sent_id").tolist(), strict=True))
    if words == "dropped":
        return dict.fromkeys(keys, "")
    others = with_words_of_other_images(expressions, seed=0)
    return {key: other.sentence for key, other in zip(keys, others, strict=True)}
