"""Seeds as people write them."""

from __future__ import annotations

import re

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
