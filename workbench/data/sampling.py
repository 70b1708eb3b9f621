"""Which examples make up a step: a function of seed and step alone, not of workers, restarts or processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The batches of steps `start` to `steps`: each pass is a new permutation, and a batch may span two passes.

    Args:
        referents: for each expression the index of its referent; a pass then draws one expression of each.
        rank, world: this process takes every `world`-th example of a batch.
        drop_last: a pass leaves out its last, incomplete batch, and the next begins with a new one.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        steps: int,
        seed: int,
        start: int = 0,
        referents: Sequence[int] | None = None,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        self._groups = _groups(referents) if referents is not None else None
        self._size = len(self._groups) if self._groups is not None else size
        self._batch, self._steps, self._seed, self._start = batch_size, steps, seed, start
        self._rank, self._world = rank, world
        self._used = self._size - self._size % batch_size if drop_last else self._size

    def __len__(self) -> int:
        return self._steps - self._start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        passes: dict[int, NDArray[np.int64]] = {}
        for step in range(self._start, self._steps):
            batch = []
            for position in range(step * self._batch + self._rank, (step + 1) * self._batch, self._world):
                number, place_in_pass = divmod(position, self._used)
                if number not in passes:
                    passes = {k: v for k, v in passes.items() if k == number - 1}
                    passes[number] = self._order(number)
                batch.append((int(passes[number][place_in_pass]), _mixed(self._seed, position)))
            yield batch

    def _order(self, number: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, number])
        order = rng.permutation(self._size)
        if self._groups is None:
            return order
        return np.array([rng.choice(self._groups[i]) for i in order])


def _mixed(seed: int, position: int) -> int:
    return int(np.random.SeedSequence([seed, position]).generate_state(1)[0])


def _groups(referents: Sequence[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index, referent in enumerate(referents):
        groups.setdefault(referent, []).append(index)
    return list(groups.values())
