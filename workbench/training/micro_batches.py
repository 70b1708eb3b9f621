"""A process's part of a batch, in parts that go through the model one after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class MicroBatch:
    """Some examples of a batch.

    Attributes:
        batch: as the loader gives it, with fewer examples.
        share: of the batch's examples. Losses are means over examples that are all of the same size, so the whole
            batch's loss is the sum of the parts' losses, each times its share.
        last: whether no part comes after it.
    """

    batch: dict[str, Any]
    share: float
    last: bool


def micro_batches(batch: dict[str, Any], size: int | None) -> Iterator[MicroBatch]:
    """The parts of a loader's batch, as few as possible and as equal as possible; one where `size` is None.

    Args:
        size: the most examples of a part.
    """
    examples = len(batch["sentence"])
    parts = 1 if size is None else -(-examples // size)
    bounds = [examples * part // parts for part in range(parts + 1)]
    for start, stop in pairwise(bounds):
        inside = {name: values[start:stop] for name, values in batch.items()}
        yield MicroBatch(inside, (stop - start) / examples, stop == examples)
