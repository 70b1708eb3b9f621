"""Seeds as people write them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

MOST_SEEDS = 100_000


def seeds_in(text: str) -> tuple[int, ...]:
    """`3`, `0-4` or `0,2,5-7` as numbers; ValueError says what is wrong."""
    seeds: list[int] = []
    for part in text.split(","):
        span = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip())
        if span is None:
            raise ValueError(f"{text!r} is none of the forms 3, 0-4 and 0,2,5-7")
        first, last = int(span[1]), int(span[2] or span[1])
        if last - first >= MOST_SEEDS:
            raise ValueError(f"{text!r} names more than {MOST_SEEDS:,} seeds")
        seeds += range(first, last + 1)
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"{text!r} names {'no seed' if not seeds else 'a seed twice'}")
    return tuple(sorted(seeds))


def seeds_as_text(seeds: Sequence[int]) -> str:
    """The shortest text that `seeds_in` reads as these: 0 to 4 and 7 as `0-4,7`, two in a row as `5,6`."""
    parts: list[str] = []
    # Numbers in a row differ from their places in the sorted list by the same.
    for _, group in itertools.groupby(enumerate(sorted(seeds)), lambda pair: pair[1] - pair[0]):
        row = [seed for _, seed in group]
        parts += [f"{row[0]}-{row[-1]}"] if len(row) > 2 else map(str, row)
    return ",".join(parts)
