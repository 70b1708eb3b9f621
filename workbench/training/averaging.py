"""The moving average of a model's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from workbench.config import EmaConfig


class MovingAverage(AveragedModel):
    """`AveragedModel` that counts its updates on the CPU, so that no step waits for the GPU.

    Torch's own moves the count to the weights' device and back at every update. Names and values of the state are the
    same, so either loads what the other saved.

    Args:
        limit: the decay at update t is min(limit, (1+t)/(10+t)).
        from_initial: average from the weights before the first step on, not from those after it.
    """

    def __init__(self, model: nn.Module, limit: float, from_initial: bool = False) -> None:
        super().__init__(model)
        self._limit, self._from_initial = limit, from_initial

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """One update; the first copies the weights, if it does not average from the initial ones."""
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        updates = int(self.n_averaged)
        if updates == 0 and not self._from_initial:
            torch._foreach_copy_(averages, weights)
        else:
            decay = min(self._limit, (1 + updates) / (10 + updates))
            torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.n_averaged += 1


def averaged(model: nn.Module, config: EmaConfig) -> MovingAverage | None:
    """The moving average of a model's weights, or None where it is off."""
    return None if config.decay is None else MovingAverage(model, config.decay, config.start == "initial")
