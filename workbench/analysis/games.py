"""The value of a subset of features (words or patches): each subset computed once, in batches that fit a byte budget.

Perturbing methods and measures of faithfulness ask for the same subsets again and again, so what was computed is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

MOST = 256
"""The largest batch, however small an example is."""
BUDGET = 2**30
"""Bytes of activations that are held at once, where nothing else is asked for."""


class Game:
    """A function of which features are present; cooperative game theory calls it a game.

    Args:
        value: of B subsets, float64 B×features of zeros and ones; returns B.
        features: how many there are.
        batch: the most subsets that `value` is given at once.
    """

    def __init__(self, value: Callable[[Tensor], Tensor], features: int, batch: int = MOST) -> None:
        self._value, self.features, self.batch = value, features, batch
        self._values: dict[bytes, float] = {}

    @property
    def evaluations(self) -> int:
        """How many subsets were computed so far."""
        return len(self._values)

    def __call__(self, presence: Tensor) -> Tensor:
        """The values, float64 B, of subsets B×features of zeros and ones."""
        rows = presence.detach().reshape(len(presence), self.features).cpu() > 0.5
        keys = [row.numpy().tobytes() for row in rows]
        missing = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._values}
        names, subsets = list(missing), list(missing.values())
        for first in range(0, len(names), self.batch):
            part = torch.stack(subsets[first : first + self.batch]).double()
            with torch.no_grad():
                values = self._value(part).double().cpu().tolist()
            self._values.update(zip(names[first : first + self.batch], values, strict=True))
        return torch.tensor([self._values[key] for key in keys], dtype=torch.float64)

    @property
    def everything(self) -> float:
        """The value with all features."""
        return float(self(torch.ones(1, self.features)))

    @property
    def nothing(self) -> float:
        """The value with no feature."""
        return float(self(torch.zeros(1, self.features)))


def activation_bytes(run: Callable[[], Tensor], weights: Collection[Tensor] = ()) -> int:
    """Bytes of the activations that autograd keeps of one run, which is more than a run without gradients holds.

    Args:
        run: computes one example, of inputs that require gradients.
        weights: are there whatever the batch, so they are not counted.
    """
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()  # kept until the hooks end: freed storages would be counted as one
    del result
    return sum(held.values())


def batch_within(budget: int, bytes_of_one: int) -> int:
    """The largest batch whose activations stay within the budget; one example is computed even where it does not."""
    return max(1, min(MOST, budget // max(1, bytes_of_one)))
